"""Tables of captions, any number of rows, found by key within bounded memory.

The rows are written once, one after the other, into a file; beside it stand the hashes of their keys, sorted, each with the
place of its row. A lookup is a binary search in a mapped file and one read. Building it holds one part of the hashes at a
time; keys are compared in full, so that two keys with one hash are two rows.

captions.bin        rows: length in 4 bytes, then JSON: [key, synthetic, web or null, score or null]
hashes-00000.bin    (hash, place) of the keys whose hash begins so, sorted by hash
table.json          counts; written last, so a table that has it is whole
"""

import hashlib
import json
import logging
import mmap
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import ConfigError, from_mapping, to_mapping
from clips_pipeline.shards.storage import Storage

log = logging.getLogger(__name__)

_ENTRY = np.dtype([("hash", "<u8"), ("place", "<u8")])
_ROWS_AT_A_TIME = 8_192
_LENGTH_BYTES = 4


@dataclass(frozen=True)
class Columns:
    """Names of columns of the tables; None where there is none.

    Attributes:
        synthetic: the long caption.
        web: a web caption to use in place of the one in the shard.
        score: a number of the pair, for a filter.
    """

    synthetic: str = "re_caption"
    web: str | None = None
    score: str | None = None


@dataclass(frozen=True)
class Counts:
    """What the tables hold.

    Attributes:
        rows: with a key of their own and a caption.
        repeated: with a key that an earlier row has; the first one counts.
        empty: without a key or a caption.
        parts: into which the hashes are divided.
    """

    rows: int
    repeated: int
    empty: int
    parts: int


class Found(NamedTuple):
    """A row: its number among all keys in the order of their hashes, and what it says."""

    number: int
    synthetic: str
    web: str | None
    score: float | None


def build(
    tables: Sequence[str], storage: Storage, folder: Path, *, key: str, columns: Columns, memory_mib: int
) -> "CaptionTable":
    """Read the Parquet files once and write the table into `folder`, which is replaced.

    Args:
        tables: addresses.
        storage: reaches them.
        folder: for the table.
        key: name of the column to find rows by.
        columns: names of the others.
        memory_mib: for hashes, at a time; the reader of Parquet takes some tens of MiB beside it.

    Raises:
        ConfigError: a file is no Parquet file or lacks a column, or a column is of another type.
        StorageError: a file cannot be had.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    total = sum(_row_count(table, storage, key, columns) for table in tables)
    limit = memory_mib * (1 << 20) // 4
    parts = _parts_for(total, limit)
    empty = 0
    waiting: list[tuple[int, int]] = []
    with (aside / "captions.bin").open("wb") as rows:
        for found, synthetic, web, score in _rows(tables, storage, key, columns):
            if not found or synthetic is None or not synthetic.strip():
                empty += 1
                continue
            waiting.append((_hash(found), rows.tell()))
            content = json.dumps([found, synthetic, web, score], ensure_ascii=False).encode("utf-8", "replace")
            rows.write(len(content).to_bytes(_LENGTH_BYTES, "little") + content)
            # A pair of Python numbers takes some 130 bytes.
            if len(waiting) * 130 >= limit:
                _spill(waiting, parts, aside)
        _spill(waiting, parts, aside)
    kept, repeated = _sort(aside, parts)
    counts = Counts(kept, repeated, empty, parts)
    (aside / "table.json").write_text(json.dumps(to_mapping(counts)))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    log.info("%s: %d rows, %d repeated keys, %d empty", folder, kept, repeated, empty)
    return CaptionTable(folder)


class CaptionTable:
    """A table that `build` has made. Pickles; every process maps the files for itself.

    Args:
        folder: of the table.

    Raises:
        ConfigError: there is no whole table.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            found = json.loads((folder / "table.json").read_text())
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(
                f"{folder}: holds no whole table ({error}); delete the folder and prepare again"
            ) from None
        self.counts = from_mapping(Counts, found, str(folder / "table.json"))

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "counts": self.counts}

    def find(self, key: str) -> Found | None:
        """The row of a key."""
        wanted = _hash(key)
        part = _part(wanted, self.counts.parts)
        entries = self._parts[part]
        at = int(np.searchsorted(entries["hash"], np.uint64(wanted)))
        while at < len(entries) and entries["hash"][at] == wanted:
            found, synthetic, web, score = _row(self._captions, int(entries["place"][at]))
            if found == key:
                return Found(self._starts[part] + at, synthetic, web, score)
            at += 1
        return None

    @cached_property
    def _captions(self) -> mmap.mmap:
        with (self.folder / "captions.bin").open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def _parts(self) -> list[NDArray[Any]]:
        files = [_part_file(self.folder, part) for part in range(self.counts.parts)]
        # An empty file cannot be mapped.
        return [np.memmap(f, _ENTRY, "r") if f.stat().st_size else np.empty(0, _ENTRY) for f in files]

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *np.cumsum([len(entries) for entries in self._parts]).tolist()]


def _row_count(table: str, storage: Storage, key: str, columns: Columns) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage.open(table) as file:
        try:
            parquet = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise ConfigError(f"{table}: no Parquet file ({error}); give Parquet tables") from None
        schema = parquet.schema_arrow
        for name in (key, columns.synthetic, columns.web, columns.score):
            if name is None:
                continue
            if name not in schema.names:
                raise ConfigError(
                    f"{table}: no column {name!r} (it has: {', '.join(schema.names)}); name the right one"
                )
            kind = schema.field(name).type
            fits = pa.types.is_floating(kind) or pa.types.is_integer(kind)
            if name != columns.score:
                fits = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
            if not fits:
                raise ConfigError(
                    f"{table}: column {name!r} holds {kind}; {'numbers' if name == columns.score else 'text'}"
                )
        return int(parquet.metadata.num_rows)


def _rows(
    tables: Sequence[str], storage: Storage, key: str, columns: Columns
) -> Iterator[tuple[str | None, str | None, str | None, float | None]]:
    import pyarrow.parquet as pq

    names = [name for name in (key, columns.synthetic, columns.web, columns.score) if name is not None]
    for table in tables:
        with storage.open(table) as file:
            # Without `pre_buffer` only the pages being read are in memory, and not a whole group of rows.
            parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=names):
                listed = {name: batch.column(name).to_pylist() for name in names}
                nothing = [None] * batch.num_rows
                yield from zip(
                    listed[key],
                    listed[columns.synthetic],
                    listed.get(columns.web or "", nothing),
                    listed.get(columns.score or "", nothing),
                    strict=True,
                )


def _parts_for(total: int, limit: int) -> int:
    return max(1, -(-total * _ENTRY.itemsize // limit))


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _part(hashed: int, parts: int) -> int:
    return hashed * parts >> 64


def _part_file(folder: Path, part: int) -> Path:
    return folder / f"hashes-{part:05d}.bin"


def _spill(waiting: list[tuple[int, int]], parts: int, folder: Path) -> None:
    entries = np.array(waiting, _ENTRY) if waiting else np.empty(0, _ENTRY)
    waiting.clear()
    entries = entries[np.argsort(entries["hash"], kind="stable")]
    # The first hash of every part; those of the last one end with all there are.
    edges = np.searchsorted(entries["hash"], np.array([-(-(part << 64) // parts) for part in range(parts)], np.uint64))
    for part, (begin, end) in enumerate(zip(edges, [*edges[1:], len(entries)], strict=True)):
        with _part_file(folder, part).open("ab") as file:
            file.write(entries[begin:end].tobytes())


def _sort(folder: Path, parts: int) -> tuple[int, int]:
    """Sort every part by hash, and by place where keys repeat; the first row of a key stays."""
    kept = repeated = 0
    content: mmap.mmap | bytes = b""
    with (folder / "captions.bin").open("rb") as file:
        if file.seek(0, 2):
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        else:
            # A mapped file must hold something.
            (folder / "captions.bin").write_bytes(b"\0")
    for part in range(parts):
        entries = np.fromfile(_part_file(folder, part), _ENTRY)
        entries = entries[np.lexsort((entries["place"], entries["hash"]))]
        use = np.ones(len(entries), bool)
        changes = np.flatnonzero(entries["hash"][1:] != entries["hash"][:-1]) + 1
        begins, ends = np.append(0, changes), np.append(changes, len(entries))
        for run in np.flatnonzero(ends - begins > 1):
            # Nearly always one key, though perhaps thousands of times: tables by hash repeat the picture of a broken link.
            seen: set[str] = set()
            for at in range(begins[run], ends[run]):
                key = _row(content, int(entries["place"][at]))[0]
                use[at] = key not in seen
                seen.add(key)
        repeated += int(len(use) - use.sum())
        kept += int(use.sum())
        entries[use].tofile(_part_file(folder, part))
    return kept, repeated


def _row(content: "mmap.mmap | bytes", place: int) -> list[Any]:
    length = int.from_bytes(content[place : place + _LENGTH_BYTES], "little")
    found: list[Any] = json.loads(content[place + _LENGTH_BYTES : place + _LENGTH_BYTES + length])
    return found
