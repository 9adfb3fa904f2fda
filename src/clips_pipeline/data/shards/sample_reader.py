"""The random read of one sample by its span: the one place where webdataset does not read a sample.

Its tar iteration and grouping take 152 µs for a sample of three files and 83 kB, this module 41 µs. With them the training
loader needs 1.08 to 1.19 times the processor time for a sample at 112 px, and the 3.4 times of open_clip's loader
(`python -m benchmarks.loader --peer open_clip`) would become about 3.0. What this module reads is what webdataset reads:
`tests/unit/data/shards/test_tar_file.py` compares both for every kind of shard.
"""

import os
import weakref
from pathlib import Path
from typing import Self

from clips_pipeline.data.shards.tar_file import TEXT_KINDS, Members, split_member_name, unreadable_error
from clips_pipeline.data.shards.tar_headers import BLOCK, Member, ReadBytes, read_headers

# A sample of more bytes is read file by file: other samples may stand between its own files, or a header may be damaged.
_MAX_BYTES_AT_ONCE = 8 << 20


class SampleReader:
    """One open tar file, of which samples are read by their spans. Nothing is read to open it.

    Raises:
        BadSampleError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise unreadable_error(str(path), f"{type(error).__name__}: {error}") from None
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
        if image and end - begin <= _MAX_BYTES_AT_ONCE:
            piece = self._pread(begin, end - begin)
            read = lambda at, size: piece[at - begin : at - begin + size]  # noqa: E731 - shorter than a def in an if
        files: list[Member | None] = [None] * (len(TEXT_KINDS) + 1)
        key, extension = "", ""
        for member in read_headers(read, begin, end).members:
            found, kind, ending = split_member_name(member.name)
            if kind is None or (key and found != key) or files[kind] is not None:
                continue
            key = found
            files[kind] = member
            extension = ending if kind == 0 else extension
        if not key:
            fault = "no sample stands there; the file has changed since it was prepared"
            raise unreadable_error(f"{self.path}, byte {begin}", fault)
        texts = [None if file is None else self._content(read, file, key) for file in files[1:]]
        picture = files[0]
        encoded = b"" if picture is not None and not image else None
        if picture is not None and image:
            encoded = self._content(read, picture, key)
        return Members(key, extension, encoded, *texts)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._closed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _content(self, read: ReadBytes, member: Member, key: str) -> bytes:
        found = b"" if member.offset + member.size > self._length else read(member.offset, member.size)
        if len(found) < member.size:
            raise unreadable_error(key, f"{self.path} ends within it")
        return found

    def _pread(self, at: int, size: int) -> bytes:
        try:
            # `pread` has no position that processes forked from one another could disturb.
            return os.pread(self._descriptor, size, at)
        except OSError as error:
            raise unreadable_error(f"{self.path}, byte {at}", str(error)) from None
