"""Random access into one tar file: where the files of each sample lie, found once, and read by offset.

Any tar in webdataset's layout will do, also one whose samples are interleaved or that webdataset or img2dataset wrote.
"""

import os
import tarfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.shards import records
from clips_pipeline.shards.records import IMAGE_EXTENSIONS, Skip
from clips_pipeline.shards.tar_scan import damage, scan

_ENDINGS = {"jpeg": "jpg"} | {extension: extension for extension in IMAGE_EXTENSIONS}
_TEXTS = {"txt": 1, "json": 2, "cls": 3}
_KINDS = 4


class BadSampleError(Exception):
    """A sample that cannot be read. `skip` says why; the one who meets it goes on with another sample."""

    def __init__(self, skip: Skip) -> None:
        super().__init__(f"{skip.reason} {skip.key}: {skip.detail}")
        self.skip = skip


@dataclass(frozen=True, slots=True)
class Members:
    """Bytes of one sample, None where a file is missing."""

    key: str
    extension: str
    image: bytes | None
    text: bytes | None
    json: bytes | None
    cls: bytes | None = None


class TarFile:
    """One open tar file.

    Attributes:
        keys: of the samples, in the order of their first files.
        interleaved: rows whose files do not stand side by side.

    Raises:
        BadSampleError: the file is no tar or cannot be read; of a damaged one, the samples before the damage are there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.keys, self._places, self._extensions, self.interleaved, self._end = _table(path)
            descriptor = os.open(path, os.O_RDONLY)
        except (OSError, tarfile.TarError) as error:
            fault = f"{type(error).__name__}: {error}"
            raise BadSampleError(Skip(records.UNREADABLE_SHARD, str(path), fault)) from None
        self._descriptor, self._length = descriptor, os.fstat(descriptor).st_size
        # Also when nobody calls `close`: a bare descriptor has no owner that the garbage collector knows.
        self._closed = weakref.finalize(self, os.close, descriptor)

    def read(self, row: int, *, image: bool = True) -> Members:
        """The files of sample number `row`.

        Args:
            row: from 0.
            image: False leaves its bytes on the disk and gives none of them.

        Raises:
            BadSampleError: the tar ends before the sample does, or the disk fails.
        """
        if row >= len(self.keys):
            raise BadSampleError(
                Skip(records.UNREADABLE_SHARD, f"{self.path}#{row}", f"only {len(self.keys)} samples can be found")
            )
        encoded = self._bytes(row, 0) if image or self._places[row, 0, 0] < 0 else b""
        text, json, cls = (self._bytes(row, kind) for kind in range(1, _KINDS))
        return Members(self.keys[row], self._extensions[row], encoded, text, json, cls)

    def damage(self) -> str | None:
        """Why the tar is not whole, so that samples may be missing at its end, or None. Reads what follows the last file.

        Raises:
            OSError: the disk fails.
        """
        return damage(self.path, self._end)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._closed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bytes(self, row: int, kind: int) -> bytes | None:
        offset, size = (int(number) for number in self._places[row, kind])
        if offset < 0:
            return None
        # Asked first, because `pread` takes memory for all that is asked for, and a damaged header may say anything.
        if offset + size > self._length:
            raise BadSampleError(Skip(records.UNREADABLE_SHARD, self.keys[row], f"{self.path} ends within it"))
        try:
            # `pread` has no position that processes forked from one another could disturb.
            found = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise BadSampleError(Skip(records.UNREADABLE_SHARD, self.keys[row], f"{self.path}: {error}")) from None
        if len(found) < size:
            raise BadSampleError(Skip(records.UNREADABLE_SHARD, self.keys[row], f"{self.path} ends within it"))
        return found


def _table(path: Path) -> tuple[list[str], NDArray[np.int64], list[str], frozenset[int], int]:
    """Keys; (samples, 4, 2) offsets and sizes of image, text, json and class, -1 for none; endings of the images; rows whose
    files do not stand side by side; where the files end."""
    rows: dict[str, int] = {}
    places: list[list[int]] = []
    extensions: list[str] = []
    parted: set[int] = set()
    found = scan(path)
    before = ""
    for name, offset, size in found.members:
        folder, _, last = name.rpartition("/")
        stem, _, ending = last.partition(".")
        ending = ending.lower()
        kind = 0 if ending in _ENDINGS else _TEXTS.get(ending)
        key = f"{folder}/{stem}" if folder else stem
        followed, before = key == before, key
        if kind is None or not stem:
            continue
        row = rows.setdefault(key, len(places))
        if row == len(places):
            places.append([-1] * 2 * _KINDS)
            extensions.append("")
        elif not followed:
            parted.add(row)
        places[row][2 * kind : 2 * kind + 2] = offset, size
        if kind == 0:
            extensions[row] = _ENDINGS[ending]
    table = np.array(places, np.int64).reshape(len(places), _KINDS, 2)
    return list(rows), table, extensions, frozenset(parted), found.end
