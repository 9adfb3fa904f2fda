"""Near-duplicates in a table of embeddings: rows whose similarity to an earlier row is above a threshold.

Rows are taken in the order of the table. A row is dropped if it is too similar to an earlier row that is kept, so the first of
a group stays, and which row that is depends on the table alone. Memory holds keys, one flag per row and two blocks of vectors;
time grows with the square of the number of rows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import ConfigError
from clips_pipeline.embeddings.table import EmbeddingTable, Kind, is_table
from clips_pipeline.io.atomic import replace_file
from clips_pipeline.io.temporary import temporary_folder

_BLOCK_ROWS = 4_096  # 64 MiB of similarities


@dataclass(frozen=True)
class Duplicate:
    """A row to drop.

    Attributes:
        key: its key.
        kept_key: key of the first kept row that it is too similar to.
        similarity: cosine similarity of the two.
    """

    key: str
    kept_key: str
    similarity: float


def find_near_duplicates(
    table: EmbeddingTable, drop_above: float, kind: Kind = "image", *, block_rows: int = _BLOCK_ROWS
) -> Iterator[Duplicate]:
    """Yield the rows to drop, in the order of the table.

    Args:
        table: the table.
        drop_above: cosine similarity; a row whose similarity to a kept one is higher is dropped.
        kind: rows of this kind are compared.
        block_rows: rows in memory at a time; the result does not depend on it.

    Raises:
        ConfigError: the threshold is not in (-1, 1], the file is damaged, or it has no such rows.
    """
    if not -1 < drop_above <= 1:
        raise ConfigError(f"--drop-above: {drop_above} is no cosine similarity; give a number such as 0.95")
    keys: list[str] = []
    with temporary_folder() as folder:
        # Decoding Parquet again for every pair of blocks would take longer than comparing them.
        file = folder / "vectors"
        with file.open("wb") as stream:
            for rows in table.blocks(kind):
                keys += rows.keys
                stream.write(np.ascontiguousarray(rows.vectors, np.float16).tobytes())
        if not keys:
            raise ConfigError(f"{table.path}: has no rows of kind {kind!r}")
        vectors_NE = np.memmap(file, np.float16, "r", shape=(len(keys), table.facts.embedding_size))
        kept = np.ones(len(keys), np.bool_)
        for low in range(0, len(keys), block_rows):
            block_nE = np.asarray(vectors_NE[low : low + block_rows], np.float32)
            first = np.full(len(block_nE), -1)
            similarity = np.zeros(len(block_nE), np.float32)
            for before in range(0, low, block_rows):
                earlier_mE = np.asarray(vectors_NE[before : before + block_rows], np.float32)
                scores_nm = block_nE @ earlier_mE.T
                scores_nm[:, ~kept[before : before + block_rows]] = -np.inf
                _note(scores_nm, before, drop_above, first, similarity)
            own_nn = block_nE @ block_nE.T
            for row in range(len(block_nE)):
                if first[row] < 0:
                    # Only a row that is kept makes later ones duplicates.
                    later = np.flatnonzero((own_nn[row] > drop_above) & (first < 0))
                    later = later[later > row]
                    first[later], similarity[later] = low + row, own_nn[row, later]
            dropped = np.flatnonzero(first >= 0)
            kept[low + dropped] = False
            for row in dropped.tolist():
                yield Duplicate(keys[low + row], keys[first[row]], float(similarity[row]))


def _note(
    scores_nm: NDArray[Any], before: int, threshold: float, first: NDArray[Any], similarity: NDArray[Any]
) -> None:
    """Note the first earlier row above the threshold of each row that has none yet."""
    above_nm = scores_nm > threshold
    found = np.flatnonzero(above_nm.any(axis=1) & (first < 0))
    places = above_nm[found].argmax(axis=1)
    first[found], similarity[found] = before + places, scores_nm[found, places]


def write_near_duplicates(table: Path, out: Path, drop_above: float, kind: Kind = "image") -> tuple[int, int]:
    """Write the rows to drop as a Parquet file of `key`, `kept_key` and `similarity`.

    Args:
        table: table of embeddings.
        out: file to write; `prepare.filters.drop_table` takes it.
        drop_above: as in `find_near_duplicates`.
        kind: as in `find_near_duplicates`.

    Returns:
        Number of rows to drop, and of all rows of the kind.

    Raises:
        ConfigError: as in `find_near_duplicates`, or `out` is a table of embeddings.
        OSError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened = EmbeddingTable(table)
    columns = [pa.field("key", pa.string()), pa.field("kept_key", pa.string()), pa.field("similarity", pa.float32())]
    facts = json.dumps({"model": opened.facts.model, "drop_above": drop_above, "kind": kind})
    schema = pa.schema(columns, metadata={b"clips_pipeline.near_duplicates": facts.encode()})
    if out.exists() and is_table(out):
        raise ConfigError(f"{out}: is a table of embeddings, which would be lost; give another OUT")
    found = list(find_near_duplicates(opened, drop_above, kind))
    content = pa.Table.from_pylist(
        [{"key": one.key, "kept_key": one.kept_key, "similarity": one.similarity} for one in found], schema=schema
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(out) as temporary:
        pq.write_table(content, temporary, compression="zstd")
    return len(found), opened.count(kind)
