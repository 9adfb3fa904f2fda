"""The join of a short look finds the rows that the whole join finds, and reads no more of the tables than needed."""

import csv
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.servers import http_server
from tests.unit.data.samples import record, write_shard

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import DEFAULT_LIMITS
from clips_pipeline.data.look.brief_join import BriefRecaptionSource
from clips_pipeline.data.look.first_samples import brief
from clips_pipeline.data.look.samples import look_at
from clips_pipeline.data.prepare.filters import SampleRules
from clips_pipeline.data.sources.recaption import RecaptionConfig, RecaptionSource
from clips_pipeline.data.sources.table_rows import ROWS_PER_BATCH, TableColumns
from clips_pipeline.data.storage.files import Storage, StorageConfig

ROWS = 3 * ROWS_PER_BATCH
COLUMNS = TableColumns(synthetic={"llava": "long", "qwen": "short"}, key="key")


def captions(number: int) -> tuple[str, str]:
    return f"Long {number}. One.", f"Short {number}."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shard of six samples, of which one has no row and one has a row at the end; the same table as Parquet and CSV."""
    write_shard(tmp_path / "00000.tar", [record(number) for number in (0, 1, 2, 3, 4, 99_999)], "00000.tar")
    keys = [f"k{number:04d}" for number in range(ROWS)]
    keys[4], keys[-1] = keys[-1], keys[4]
    texts = [captions(int(key[1:])) for key in keys]
    table = pa.table({"key": keys, "long": [long for long, _ in texts], "short": [short for _, short in texts]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=ROWS_PER_BATCH)
    with gzip.open(tmp_path / "t.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "long", "short"])
        writer.writerows((key, *text) for key, text in zip(keys, texts, strict=True))
    return tmp_path


def source(folder: str, table: str, work: Path, samples: int = 6) -> BriefRecaptionSource:
    config = RecaptionConfig(f"{folder}/00000.tar", f"{folder}/{table}", "none", "none", columns=COLUMNS)
    storage = brief(Storage(StorageConfig(timeout_s=2.0)), samples, DEFAULT_LIMITS)
    return BriefRecaptionSource(config, storage, work / "work", work / "tables", DEFAULT_LIMITS)


@pytest.mark.parametrize("table", ["t.parquet", "t.csv.gz"])
@pytest.mark.parametrize("remote", [False, True])
def test_the_same_samples_as_the_whole_join(folder: Path, table: str, remote: bool) -> None:
    config = RecaptionConfig(f"{folder}/00000.tar", f"{folder}/{table}", "none", "none", columns=COLUMNS)
    whole = look_at(RecaptionSource(config, Storage(), folder / "whole"), "train", 9, SampleRules())
    (folder / "work").mkdir()
    with http_server(folder) as http:
        found = source(http.url if remote else str(folder), table, folder)
        seen = look_at(found, "train", 9, SampleRules())
    assert seen == whole
    assert [sample.reason for sample in seen] == ["", "", "", "", "", "no_table_row"]
    assert found.brief is not None
    assert (found.brief.read_rows, found.brief.ended) == (ROWS, True)
    record = seen[3].record
    assert record is not None
    assert [tuple(caption) for caption in record.synthetic_captions] == [
        ("Long 3. One.", "llava"),
        ("Short 3.", "qwen"),
    ]
    # Nothing is kept.
    assert not list((folder / "work").rglob("*.npy"))
    assert not (folder / "tables").exists()


def test_rows_without_a_caption_do_not_count(folder: Path) -> None:
    keys = [f"k{number:04d}" for number in (0, 0, 1, 1, 2, 2)]
    texts = [[" \n"], ["Long."], [], ["Long."], [None], ["Long."]]
    pq.write_table(pa.table({"key": keys, "long": texts, "short": [None] * 5 + ["Short."]}), folder / "t.parquet")
    config = RecaptionConfig(f"{folder}/00000.tar", f"{folder}/t.parquet", "none", "none", columns=COLUMNS)
    whole = look_at(RecaptionSource(config, Storage(), folder / "whole"), "train", 3, SampleRules())
    assert [sample.fate for sample in whole] == ["used"] * 3
    assert look_at(source(str(folder), "t.parquet", folder), "train", 3, SampleRules()) == whole


def test_no_more_rows_are_read_than_needed(folder: Path) -> None:
    found = source(str(folder), "t.parquet", folder)
    assert len(look_at(found, "train", 3, SampleRules())) == 3
    assert found.brief is not None
    assert (found.brief.read_rows, found.brief.ended) == (ROWS_PER_BATCH, False)


def test_a_table_that_is_made_is_used(folder: Path) -> None:
    config = RecaptionConfig(f"{folder}/00000.tar", f"{folder}/t.parquet", "none", "none", columns=COLUMNS)
    made = RecaptionSource(config, Storage(), folder / "tables")
    whole = look_at(made, "train", 9, SampleRules())
    files = sorted(path for path in (folder / "tables").rglob("*"))
    found = source(str(folder), "t.parquet", folder)
    assert look_at(found, "train", 9, SampleRules()) == whole
    assert found.brief is None
    assert sorted(path for path in (folder / "tables").rglob("*")) == files


def test_bounds_end_the_search(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clips_pipeline.data.look.brief_join._MAX_BYTES", 1)
    found = source(str(folder), "t.parquet", folder)
    fates = [sample.reason for sample in look_at(found, "train", 9, SampleRules())]
    assert fates == ["", "", "", "", "no_table_row", "no_table_row"]
    assert found.brief is not None
    assert not found.brief.ended


def test_a_large_remote_table_is_read_in_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clips_pipeline.data.look.brief_join._MAX_TABLE_BYTES", 30_000)
    (folder / "work").mkdir()
    with http_server(folder) as http:
        found = source(http.url, "t.csv.gz", folder)
        fates = [sample.reason for sample in look_at(found, "train", 4, SampleRules())]
    assert fates == [""] * 4


def test_a_missing_column_gives_one_error(folder: Path) -> None:
    config = RecaptionConfig(f"{folder}/00000.tar", f"{folder}/t.parquet", "none", "none")
    storage = brief(Storage(), 3, DEFAULT_LIMITS)
    found = BriefRecaptionSource(config, storage, folder, folder / "tables", DEFAULT_LIMITS)
    with pytest.raises(ConfigError, match="no column 're_caption'"):
        look_at(found, "train", 3, SampleRules())
