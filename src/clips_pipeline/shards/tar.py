"""Random access into one tar file: the span of each sample is found once, and read by offset.

Any tar in webdataset's layout will do, also one whose samples are interleaved or that webdataset or img2dataset wrote.
"""

import io
import os
import tarfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.shards import records
from clips_pipeline.shards.records import IMAGE_EXTENSIONS, Skip
from clips_pipeline.shards.tar_scan import BLOCK, Member, NotPlainError, Read, any_kind, damage, plain, scan

_ENDINGS = {"jpeg": "jpg"} | {extension: extension for extension in IMAGE_EXTENSIONS}
_TEXTS = {"txt": 1, "json": 2, "cls": 3}
# A sample of more bytes is read file by file: other samples may stand between its own files, or a header may be damaged.
_AT_ONCE = 8 << 20
_AT_MOST = 1 << 30

Spans = NDArray[np.int64]
"""(samples, 2): where the first header of each sample stands, and where its last file ends, in blocks of 512 bytes."""


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


class SpanReader:
    """One open tar file, of which samples are read by their spans. Nothing is read to open it.

    Raises:
        BadSampleError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise _unreadable(str(path), f"{type(error).__name__}: {error}") from None
        self._descriptor, self._length = descriptor, os.fstat(descriptor).st_size
        # Also when nobody calls `close`: a bare descriptor has no owner that the garbage collector knows.
        self._closed = weakref.finalize(self, os.close, descriptor)

    def members(self, span: tuple[int, int], *, image: bool = True) -> Members:
        """The files of the sample whose first header stands at the beginning of `span`.

        Args:
            span: first block, and the first block after it.
            image: False leaves its bytes on the disk and gives none of them.

        Raises:
            BadSampleError: the tar is not what it was when the span was found, or ends before it, or the disk fails.
        """
        # `pread` takes memory for all that is asked for, and a damaged header may say anything.
        begin, end = span[0] * BLOCK, min(span[1] * BLOCK, self._length)
        read = self._pread
        if image and end - begin <= _AT_ONCE:
            piece = self._pread(begin, end - begin)
            read = lambda at, size: piece[at - begin : at - begin + size]  # noqa: E731 - shorter than a def in an if
        files: list[Member | None] = [None] * (len(_TEXTS) + 1)
        key, extension = "", ""
        for member in self._files(read, begin, end):
            found, kind, ending = _key_kind_ending(member.name)
            if kind is None or (key and found != key):
                continue
            key = found
            files[kind] = member
            extension = ending if kind == 0 else extension
        if not key:
            fault = "no sample stands there; the file has changed since it was prepared"
            raise _unreadable(f"{self.path}, byte {begin}", fault)
        contents = [None if file is None else self._content(read, file, key) for file in files[1:]]
        picture = files[0]
        encoded = b"" if picture is not None and not image else None
        if picture is not None and image:
            encoded = self._content(read, picture, key)
        return Members(key, extension, encoded, *contents)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._closed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _files(self, read: Read, begin: int, end: int) -> Iterable[Member]:
        try:
            return plain(read, begin, end).members
        except NotPlainError:
            pass
        try:
            if end - begin > _AT_MOST:
                raise tarfile.ReadError(f"headers of an unusual kind, spread over {end - begin} bytes")
            found = any_kind(io.BytesIO(self._pread(begin, end - begin))).members
        except tarfile.TarError as error:
            raise _unreadable(f"{self.path}, byte {begin}", str(error)) from None
        return [Member(name, start + begin, offset + begin, size) for name, start, offset, size in found]

    def _content(self, read: Read, member: Member, key: str) -> bytes:
        if member.offset + member.size > self._length:
            raise _unreadable(key, f"{self.path} ends within it")
        found = read(member.offset, member.size)
        if len(found) < member.size:
            raise _unreadable(key, f"{self.path} ends within it")
        return found

    def _pread(self, at: int, size: int) -> bytes:
        try:
            # `pread` has no position that processes forked from one another could disturb.
            return os.pread(self._descriptor, size, at)
        except OSError as error:
            raise _unreadable(f"{self.path}, byte {at}", str(error)) from None


class TarFile(SpanReader):
    """One open tar file whose samples have been found.

    Attributes:
        keys: of the samples, in the order of their first files.
        spans: of the samples.
        interleaved: rows whose files do not stand side by side.

    Raises:
        BadSampleError: the file is no tar or cannot be read; of a damaged one, the samples before the damage are there.
    """

    def __init__(self, path: Path) -> None:
        try:
            found = scan(path)
        except (OSError, tarfile.TarError) as error:
            raise _unreadable(str(path), f"{type(error).__name__}: {error}") from None
        super().__init__(path)
        self.keys, self.spans, self.interleaved = _samples(found.members)
        self._end = found.end

    def read(self, row: int, *, image: bool = True) -> Members:
        """The files of sample number `row`.

        Args:
            row: from 0.
            image: False leaves its bytes on the disk and gives none of them.

        Raises:
            BadSampleError: the tar ends before the sample does, or the disk fails.
        """
        if row >= len(self.keys):
            raise _unreadable(f"{self.path}#{row}", f"only {len(self.keys)} samples can be found")
        begin, end = self.spans[row].tolist()
        return self.members((begin, end), image=image)

    def damage(self) -> str | None:
        """Why the tar is not whole, so that samples may be missing at its end, or None. Reads what follows the last file.

        Raises:
            OSError: the disk fails.
        """
        return damage(self.path, self._end)


def _samples(members: Iterable[Member]) -> tuple[list[str], Spans, frozenset[int]]:
    """Keys, spans, and the rows whose files do not stand side by side."""
    rows: dict[str, int] = {}
    spans: list[list[int]] = []
    parted: set[int] = set()
    before = ""
    for member in members:
        key, kind, _ = _key_kind_ending(member.name)
        followed, before = key == before, key
        if kind is None:
            continue
        row = rows.setdefault(key, len(spans))
        if row == len(spans):
            spans.append([member.start, member.end])
        else:
            spans[row][1] = member.end
            if not followed:
                parted.add(row)
    return list(rows), np.array(spans, np.int64).reshape(len(spans), 2) // BLOCK, frozenset(parted)


def _key_kind_ending(name: str) -> tuple[str, int | None, str]:
    """Key of the sample that a file belongs to; 0 for an image, more for a text, None for what is not used; the image's
    ending."""
    folder, _, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    ending = ending.lower()
    image = _ENDINGS.get(ending, "")
    kind = 0 if image else _TEXTS.get(ending)
    return f"{folder}/{stem}" if folder else stem, kind if stem else None, image


def _unreadable(key: str, fault: str) -> BadSampleError:
    return BadSampleError(Skip(records.UNREADABLE_SHARD, key, fault))
