"""Random access to one sample by its span; the only reader of samples that does not use webdataset.

webdataset's tar iteration and grouping take 152 µs for a sample of three files and 83 kB; this module takes 41 µs. With
webdataset, the training loader would need 1.08 to 1.19 times the CPU time per sample at 112 px, and its speed would
drop from 3.4 to about 3.0 times that of open_clip's loader (`python -m benchmarks.loader --peer open_clip`).
`tests/unit/data/shards/test_tar_file.py` compares both readers for every kind of shard.
"""

import os
import weakref
from pathlib import Path
from typing import Self

from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards.tar_file import (
    MAX_HEADERS_IN_SPAN,
    TEXT_KINDS,
    MemberLimits,
    Members,
    split_member_name,
    unreadable_error,
)
from clips_pipeline.data.shards.tar_headers import BLOCK, Member, ReadBytes, read_headers

# Larger samples are read file by file: their span may include other samples, or a header may be damaged.
_MAX_BYTES_AT_ONCE = 8 << 20
# `prepare` takes no sample with more files in its span; each may have four extended headers.
_MAX_HEADERS = 5 * (MAX_HEADERS_IN_SPAN + 1)


class SampleReader:
    """One open tar file whose samples are read by their spans. Opening reads nothing.

    Args:
        path: the file.
        limits: limits on the files of a sample and on extended headers.

    Raises:
        BadSampleError: the file cannot be opened.
    """

    def __init__(self, path: Path, limits: SampleLimits = DEFAULT_LIMITS) -> None:
        self.path, self._limits, self._max_header_bytes = path, MemberLimits(limits), limits.max_header_bytes
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise unreadable_error(str(path), f"{type(error).__name__}: {error}") from None
        self._descriptor, self._length = descriptor, os.fstat(descriptor).st_size
        # Closes the descriptor even if `close` is never called.
        self._closed = weakref.finalize(self, os.close, descriptor)

    def members(self, span: tuple[int, int], *, image: bool = True) -> Members:
        """Return the files of the sample whose first header is at the beginning of `span`.

        Args:
            span: first block, and the first block after the sample.
            image: False returns an image of zero bytes without reading it.

        Raises:
            BadSampleError: the tar has changed since the span was found or is truncated, a file is above a limit, or
                reading fails.
        """
        # Limited to the file, because `pread` allocates the requested size and a damaged header may give any size.
        begin, end = span[0] * BLOCK, min(span[1] * BLOCK, self._length)
        read = self._pread
        if image and end - begin <= _MAX_BYTES_AT_ONCE:
            piece = self._pread(begin, end - begin)
            read = lambda at, size: piece[at - begin : at - begin + size]  # noqa: E731 - shorter than a nested def
        files: list[Member | None] = [None] * (len(TEXT_KINDS) + 1)
        key, extension = "", ""
        for member in read_headers(read, begin, end, self._max_header_bytes, _MAX_HEADERS).members:
            found, kind, ending = split_member_name(member.name)
            if kind is None or (key and found != key) or files[kind] is not None:
                continue
            key = found
            if member.size > self._limits.bytes[kind]:
                self._limits.check(key, kind, member, str(self.path), self._length)
            files[kind] = member
            extension = ending if kind == 0 else extension
        if not key:
            fault = "no sample at this position; the file has changed since it was prepared"
            raise unreadable_error(f"{self.path}, byte {begin}", fault)
        texts = [None if file is None else self._content(read, file, key) for file in files[1:]]
        image_file = files[0]
        encoded = b"" if image_file is not None and not image else None
        if image_file is not None and image:
            encoded = self._content(read, image_file, key)
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
            # `pread` uses no file position, which forked processes would share.
            return os.pread(self._descriptor, size, at)
        except OSError as error:
            raise unreadable_error(f"{self.path}, byte {at}", str(error)) from None
