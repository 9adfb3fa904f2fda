"""Tables of embeddings: round trip, atomic writes, foreign and damaged files."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.embeddings.tables import MODEL, SIZE, make_rows, write

from clips_pipeline.config import ConfigError
from clips_pipeline.embeddings.table import EmbeddingTable, TableFacts, merge_tables, write_table


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    rows = make_rows(40)
    table = EmbeddingTable(write(tmp_path / "table.parquet", rows))
    assert table.rows == 40
    assert table.facts == TableFacts(MODEL, SIZE, "made of")
    (found,) = table.blocks()
    assert (found.keys, found.kinds, found.sources, found.texts) == (rows.keys, rows.kinds, rows.sources, rows.texts)
    assert found.vectors.dtype == np.float16
    assert np.array_equal(found.vectors, rows.vectors.astype(np.float16))


def test_any_parquet_reader_sees_fixed_size_lists_of_float16(tmp_path: Path) -> None:
    read = pq.read_table(write(tmp_path / "table.parquet", make_rows(3)))
    assert read.schema.field("vector").type == pa.list_(pa.float16(), SIZE)
    assert read.column_names == ["key", "kind", "source", "text", "vector"]


def test_only_blocks_of_rows_are_in_memory_and_one_kind_can_be_read(tmp_path: Path) -> None:
    rows = make_rows(50)
    table = EmbeddingTable(write(tmp_path / "table.parquet", rows))
    assert [len(block) for block in table.blocks(rows=20)] == [20, 20, 10]
    images = [key for block in table.blocks("image", rows=7) for key in block.keys]
    assert images == [key for key, kind in zip(rows.keys, rows.kinds, strict=True) if kind == "image"]


def test_merged_parts_are_one_table(tmp_path: Path) -> None:
    rows = make_rows(30)
    first, second = (np.arange(0, 18), np.arange(18, 30))
    parts = [write(tmp_path / f"{n}.parquet", rows.take(part)) for n, part in enumerate((first, second))]
    assert merge_tables(parts, tmp_path / "all.parquet", TableFacts(MODEL, SIZE)) == 30
    (block,) = EmbeddingTable(tmp_path / "all.parquet").blocks()
    assert block.keys == rows.keys
    with pytest.raises(ConfigError, match="of the model"):
        merge_tables(parts, tmp_path / "all.parquet", TableFacts("b" * 64, SIZE))
    assert EmbeddingTable(tmp_path / "all.parquet").rows == 30  # the old one stays


def test_nothing_is_written_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    rows = make_rows(2)
    rows.vectors[1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"), write_table(path, TableFacts(MODEL, SIZE)) as writer:
        writer.add(rows)
    with pytest.raises(ValueError, match="shape"), write_table(path, TableFacts(MODEL, SIZE + 1)) as writer:
        writer.add(make_rows(2))
    assert list(tmp_path.iterdir()) == []


def test_vectors_of_another_model_are_refused(tmp_path: Path) -> None:
    table = EmbeddingTable(write(tmp_path / "table.parquet", make_rows(2)))
    table.require_model(MODEL)
    with pytest.raises(ConfigError, match=r"table.parquet: its vectors are of the model a{12}, not of c{12}; "):
        table.require_model("c" * 64)


def _with_metadata(path: Path, **changes: object) -> Path:
    table = pq.read_table(write(path, make_rows(2)))
    metadata = dict(table.schema.metadata)
    facts = json.loads(metadata[b"clips_pipeline.embeddings"]) | changes
    metadata[b"clips_pipeline.embeddings"] = json.dumps(facts).encode()
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def test_foreign_and_damaged_files_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    with pytest.raises(ConfigError, match="no such file; give a table of"):
        EmbeddingTable(path)
    path.write_bytes(b"PAR1 and so on")
    with pytest.raises(ConfigError, match=r"table.parquet: no Parquet file, or a damaged one"):
        EmbeddingTable(path)
    pq.write_table(pa.table({"key": ["a"], "vector": [[1.0]]}), path)
    with pytest.raises(ConfigError, match="no table of embeddings"):
        EmbeddingTable(path)
    for changes, message in (
        ({"format": 9}, "format 9, this release reads 1"),
        ({"embedding_size": 10**9}, "the size 1000000000"),
        ({"embedding_size": SIZE + 1}, "its columns are"),
        ({"model": 5}, "the model 5"),
    ):
        with pytest.raises(ConfigError, match=message):
            EmbeddingTable(_with_metadata(path, **changes))


def test_a_damaged_page_is_found_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "table.parquet", make_rows(400))
    content = bytearray(path.read_bytes())
    content[200:4000] = bytes(3800)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        list(EmbeddingTable(path).blocks())


def test_a_foreign_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    good = pq.read_table(write(path, make_rows(2)))
    pq.write_table(good.set_column(1, good.schema.field("kind"), pa.array(["image", "sound"])), path)
    with pytest.raises(ConfigError, match="kind 'sound'"):
        list(EmbeddingTable(path).blocks())
    vectors = np.full((2, SIZE), np.inf, np.float16).reshape(-1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), SIZE)
    pq.write_table(good.set_column(4, good.schema.field("vector"), column), path)
    with pytest.raises(ConfigError, match="NaN or infinity"):
        list(EmbeddingTable(path).blocks())
