"""The files in a tar, or in a piece of one: names, offsets and sizes, without reading their contents.

`tarfile` does this too, at a tenth of the speed: it makes an object for each file, and a shard has tens of thousands. Here
ustar headers are read directly, with the extended header that webdataset writes before each of them (a time with a
fraction); a tar with anything else in it (GNU's long names, foreign letters, sizes beyond eight GB) is left to `tarfile`.
"""

import mmap
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

BLOCK = 512
_FOLDER_TYPE = 0x35
_EXTENDED_TYPE = 0x78
_PLAIN_TYPES = (0x30, 0x00)  # '0' and the old form of it
# What an extended header may say that changes nothing here.
_UNUSED = {b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment"}
_LONGEST_EXTENSION = 1 << 16
# More than any file has, and small enough for offsets to be added to it.
_MOST_BYTES = 1 << 60

# What `tarfile` lets out besides its own errors when sizes, numbers or texts in a header are absurd.
_DAMAGE = (tarfile.TarError, OSError, ValueError, OverflowError, EOFError, IndexError, KeyError, TypeError)

Read = Callable[[int, int], bytes]
"""Bytes of a file: from an offset on, so many; fewer where it ends."""


class Member(NamedTuple):
    """One regular file in a tar.

    Attributes:
        name: of it.
        start: where its headers begin.
        offset: where its content begins.
        size: of its content.
    """

    name: str
    start: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header is to be expected."""
        return self.offset + _whole_blocks(self.size)


@dataclass(frozen=True, slots=True)
class Scan:
    """What is in a tar file.

    Attributes:
        members: every regular file, in order; of a damaged tar, those before the damage.
        end: where the members end: the mark of the end should stand there.
    """

    members: list[Member]
    end: int


class NotPlainError(Exception):
    """A header that only `tarfile` understands."""


def scan(path: Path) -> Scan:
    """All files of a tar, as far as it is whole.

    Raises:
        OSError: the file cannot be read.
        tarfile.TarError: it is no tar at all.
    """
    with path.open("rb") as file:
        if file.seek(0, 2) < BLOCK:
            raise tarfile.ReadError("empty file" if file.tell() == 0 else "shorter than one block of a tar")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return plain(lambda at, size: content[at : at + size], 0, len(content))
            except NotPlainError:
                pass
        file.seek(0)
        return any_kind(file)


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


def plain(read: Read, at: int, end: int) -> Scan:
    """The files whose headers stand from `at` to `end`, without `tarfile`.

    Raises:
        NotPlainError: a header is of another kind, or damaged.
    """
    found: list[Member] = []
    start, named = at, ""
    while at + BLOCK <= end:
        header = read(at, BLOCK)
        if len(header) < BLOCK or header[0] == 0:
            break
        size, kind = _octal(header[124:136]), header[156]
        # The sum counts its own field as blanks.
        if sum(header) - sum(header[148:156]) + 8 * 0x20 != _octal(header[148:156]):
            raise NotPlainError
        at += BLOCK
        if kind == _EXTENDED_TYPE:
            if at - BLOCK != start or size > _LONGEST_EXTENSION:
                raise NotPlainError
            named = _extended_name(read(at, size))
        elif kind in _PLAIN_TYPES:
            found.append(Member(named or _name(header), start, at, size))
        elif kind != _FOLDER_TYPE or size or at - BLOCK != start:
            raise NotPlainError
        at += _whole_blocks(size)
        if kind != _EXTENDED_TYPE:
            start, named = at, ""
    if start != at:  # an extended header, and then nothing that it could extend
        raise NotPlainError
    return Scan(found, at)


def any_kind(file: IO[bytes]) -> Scan:
    """The files of any tar, or of a piece that begins with a header, by `tarfile`.

    Raises:
        tarfile.TarError: there is not a single file.
    """
    found: list[Member] = []
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                # The bytes of a sparse file do not lie in one piece.
                if member.isreg() and not member.issparse():
                    if member.size < 0:
                        raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
                    size = min(member.size, _MOST_BYTES)
                    found.append(Member(member.name, member.offset, member.offset_data, size))
                end = tar.offset
    except _DAMAGE as error:
        if not found:
            raise tarfile.ReadError(f"{type(error).__name__}: {error}") from None
        end = found[-1].offset + found[-1].size
    return Scan(found, end)


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _name(header: bytes) -> str:
    name = _text(header[:100])
    # GNU's own format keeps other things where ustar has the first part of long names.
    if header[345] and header[257:263] == b"ustar\0":
        return f"{_text(header[345:500])}/{name}"
    return name


def _extended_name(records: bytes) -> str:
    """The name that an extended header gives, or none. Each record is `LENGTH KEY=VALUE`, and its length counts all of it."""
    name = ""
    while records:
        digits, blank, _ = records[:20].partition(b" ")
        if not blank or not digits.isdigit() or not 5 <= int(digits) <= len(records):
            raise NotPlainError
        length = int(digits)
        key, _, value = records[len(digits) + 1 : length - 1].partition(b"=")
        if key == b"path" and b"\0" not in value:
            name = _text(value, "utf-8").rstrip("/")
        elif key not in _UNUSED or records[length - 1] != 0x0A:
            raise NotPlainError
        records = records[length:]
    return name


def _octal(field: bytes) -> int:
    try:
        number = int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise NotPlainError from None
    if number < 0:
        raise NotPlainError
    return number


def _text(field: bytes, encoding: str = "ascii") -> str:
    try:
        return field.partition(b"\0")[0].decode(encoding)
    except UnicodeDecodeError:
        raise NotPlainError from None
