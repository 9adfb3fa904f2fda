"""The files in a tar: names, offsets and sizes, without reading their contents.

`tarfile` does this too, at a tenth of the speed: it makes an object for each file, and a shard has tens of thousands. Here
plain ustar headers are read directly; a tar with anything else in it (long names, foreign letters, sizes beyond eight GB)
is left to `tarfile`.
"""

import mmap
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Member = tuple[str, int, int]

_BLOCK = 512
_FOLDER_TYPE = 0x35
_PLAIN_TYPES = np.array([0x30, 0x00, _FOLDER_TYPE], np.uint8)  # '0' and the old form of it
_CHECKSUM = slice(148, 156)
_PREFIX = slice(345, 500)
# More than any file has, and small enough for offsets to be added to it.
_MOST_BYTES = 1 << 60

# What `tarfile` lets out besides its own errors when sizes, numbers or texts in a header are absurd.
_DAMAGE = (tarfile.TarError, OSError, ValueError, OverflowError, EOFError, IndexError, KeyError, TypeError)


@dataclass(frozen=True, slots=True)
class Scan:
    """What is in a tar file.

    Attributes:
        members: name, offset and size of every regular file, in order; of a damaged tar, those before the damage.
        end: where the members end: the mark of the end should stand there.
    """

    members: list[Member]
    end: int


class _NotPlainError(Exception):
    """A header that only `tarfile` understands."""


def scan(path: Path) -> Scan:
    """All files of a tar, as far as it is whole.

    Raises:
        OSError: the file cannot be read.
        tarfile.TarError: it is no tar at all.
    """
    with path.open("rb") as file:
        if file.seek(0, 2) < _BLOCK:
            raise tarfile.ReadError("empty file" if file.tell() == 0 else "shorter than one block of a tar")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _plain(content)
            except _NotPlainError:
                pass
    return _any(path)


def damage(path: Path, end: int) -> str | None:
    """Why the tar at `path` is not whole, or None. `end` is what `scan` has found.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if end >= size:
            return f"ends after {size} bytes without the mark of its end; it has been cut"
        file.seek(end)
        # Two blocks of zeros, and zeros to the end. A writer that was stopped leaves none; a damaged header is none.
        while block := file.read(1 << 20):
            if block.count(0) != len(block):
                return f"is damaged after byte {end} of {size}, or two tars stand in one file"
    return None


def _plain(content: mmap.mmap) -> Scan:
    """All headers first, then what has to be checked of them at once."""
    headers, places = [], []
    at, end = 0, len(content)
    while at + _BLOCK <= end:
        header = content[at : at + _BLOCK]
        if header[0] == 0:
            break
        size = _octal(header[124:136])
        headers.append(header)
        places.append((at + _BLOCK, size))
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    if not headers:
        return Scan([], at)
    bytes_HB = np.frombuffer(b"".join(headers), np.uint8).reshape(len(headers), _BLOCK)
    # The sum counts its own field as blanks.
    sums_H = bytes_HB.sum(1, np.int64) - bytes_HB[:, _CHECKSUM].sum(1, np.int64) + 8 * 0x20
    kinds_H = bytes_HB[:, 156]
    if sums_H.tolist() != [_octal(header[_CHECKSUM]) for header in headers] or not np.isin(kinds_H, _PLAIN_TYPES).all():
        raise _NotPlainError
    found = []
    prefixed = bytes_HB[:, _PREFIX.start] != 0
    for header, (offset, size), kind, long in zip(headers, places, kinds_H.tolist(), prefixed.tolist(), strict=True):
        if kind == _FOLDER_TYPE:
            if size:
                raise _NotPlainError
            continue
        name = _text(header[:100])
        # GNU's own format keeps other things where ustar has the first part of long names.
        if long and header[257:263] == b"ustar\0":
            name = f"{_text(header[_PREFIX])}/{name}"
        found.append((name, offset, size))
    return Scan(found, at)


def _octal(field: bytes) -> int:
    try:
        number = int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise _NotPlainError from None
    if number < 0:
        raise _NotPlainError
    return number


def _text(field: bytes) -> str:
    try:
        return field.partition(b"\0")[0].decode("ascii")
    except UnicodeDecodeError:
        raise _NotPlainError from None


def _any(path: Path) -> Scan:
    found: list[Member] = []
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                # The bytes of a sparse file do not lie in one piece.
                if member.isreg() and not member.issparse():
                    if member.size < 0:
                        raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
                    found.append((member.name, member.offset_data, min(member.size, _MOST_BYTES)))
                end = tar.offset
    except _DAMAGE as error:
        if not found:
            raise tarfile.ReadError(f"{type(error).__name__}: {error}") from None
        _, offset, size = found[-1]
        end = offset + size
    return Scan(found, end)
