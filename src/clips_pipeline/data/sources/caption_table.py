"""Caption tables of any size, searched by key: two sorted arrays and the rows, all of them memory-mapped.

    counts.json         numbers of rows
    hashes.bin          64-bit hashes of the keys, sorted
    places.bin          for each of them, the position of its row in all tables
    rows-00000.arrow …  key and captions of each table, in its order

`table_build` writes them. A lookup reads a few pages of the files, whatever their size, and processes share these pages.
"""

import hashlib
import json
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import ConfigError
from clips_pipeline.data.sources.table_rows import ROWS_PER_BATCH

COUNTS_FILE, HASHES_FILE, PLACES_FILE = "counts.json", "hashes.bin", "places.bin"
_MAX_OPEN_FILES = 64


@dataclass(frozen=True)
class TableCounts:
    """Number of rows of the tables.

    Attributes:
        rows: rows with a caption and a new key.
        repeated: rows whose key occurs in an earlier row; the first row is used.
        empty: rows without a key or without a caption.
        conflicts: keys that have rows with different captions.
        faulty: rows that are not CSV.
        files: number of rows of each table.
    """

    rows: int
    repeated: int
    empty: int
    conflicts: int
    faulty: int
    files: tuple[int, ...]


class TableRow(NamedTuple):
    """A row. `number` counts the rows that can be found, from 0; `values` has the columns of `table_rows`."""

    number: int
    values: dict[str, Any]


def rows_file(folder: Path, number: int) -> Path:
    """Return the file of the rows of a table."""
    return folder / f"rows-{number:05d}.arrow"


class CaptionTable:
    """A table written by `table_build.build_table`. Can be pickled; every process opens the files for itself.

    Args:
        folder: folder of the table.

    Raises:
        ConfigError: the folder has no complete table.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            found = json.loads((folder / COUNTS_FILE).read_text(encoding="utf-8"))
            self.counts = TableCounts(**{**found, "files": tuple(found["files"])})
            whole = {(folder / name).stat().st_size for name in (HASHES_FILE, PLACES_FILE)} == {8 * self.counts.rows}
            problem = "" if whole else "a file was cut off"
        except (OSError, ValueError, TypeError, KeyError) as error:
            problem = str(error) or type(error).__name__
        if problem:
            raise ConfigError(f"{folder}: holds no complete table ({problem}); delete the folder and prepare again")
        self._close()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "counts": self.counts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._close()

    def _close(self) -> None:
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._batch: tuple[tuple[int, int], dict[str, Any]] = (-1, -1), {}

    def find(self, key: str) -> TableRow | None:
        """Return the first row with a key, or None."""
        try:
            value = hash_key(key)
        except UnicodeEncodeError:
            return None  # a name in a tar that is not UTF-8; no table has such a key
        at = int(np.searchsorted(self._hashes, value))
        # Other keys with the same hash stand beside it.
        while at < self.counts.rows and self._hashes[at] == value:
            values = self.read(int(self._places[at]))
            if values["key"] == key:
                return TableRow(at, values)
            at += 1
        return None

    def read(self, place: int) -> dict[str, Any]:
        """Return the row at a position in all tables."""
        number, row = self.locate(place)
        at, rest = divmod(row, ROWS_PER_BATCH)
        if (number, at) != self._batch[0]:
            batch = self._reader(number).get_batch(at)
            self._batch = (number, at), dict(zip(batch.schema.names, batch.columns, strict=True))
        return {name: column[rest].as_py() for name, column in self._batch[1].items()}

    def locate(self, place: int) -> tuple[int, int]:
        """Return the table and the row in it of a position in all tables."""
        number = bisect_right(self._ends, place)
        return number, place - (self._ends[number - 1] if number else 0)

    def _reader(self, number: int) -> Any:
        import pyarrow as pa

        reader = self._open.pop(number, None)
        if reader is None:
            while len(self._open) >= _MAX_OPEN_FILES:
                self._open.popitem(last=False)
            reader = pa.ipc.open_file(pa.memory_map(str(rows_file(self.folder, number))))
        self._open[number] = reader
        return reader

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(self.counts.files))

    @cached_property
    def _hashes(self) -> NDArray[np.uint64]:
        # A plain array: each call on a `memmap` takes several times as long.
        return np.asarray(np.memmap(self.folder / HASHES_FILE, np.uint64, "r"))

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        return np.asarray(np.memmap(self.folder / PLACES_FILE, np.int64, "r"))


def hash_key(key: str) -> np.uint64:
    """Return the hash of a key: the upper half of DuckDB's `md5_number`.

    Raises:
        UnicodeEncodeError: the key has lone surrogates.
    """
    digest = hashlib.md5(key.encode(), usedforsecurity=False).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))
