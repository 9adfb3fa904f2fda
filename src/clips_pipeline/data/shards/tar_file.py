"""Tar files in webdataset's layout: headers are checked first (`tar_headers`), then webdataset reads the samples.

Any such tar is accepted, including those of webdataset and img2dataset and those with interleaved samples.
"""

import io
import os
import re
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.records import IMAGE_EXTENSIONS, Skip
from clips_pipeline.data.shards.tar_headers import BLOCK, Member, find_damage, scan

_EXTENSIONS = {"jpeg": "jpg"} | {extension: extension for extension in IMAGE_EXTENSIONS}
TEXT_KINDS = {"txt": 1, "json": 2, "cls": 3}
MAX_HEADERS_IN_SPAN = 256
"""Headers that are read for one sample in random access; ordinary samples have three."""
_META = re.compile(r"__[^/]*__($|/)")  # names that webdataset ignores

# Errors that `tarfile` raises besides its own.
_DAMAGE_ERRORS = (tarfile.TarError, OSError, ValueError, OverflowError, EOFError, IndexError, KeyError, TypeError)

Spans = NDArray[np.int64]
"""(samples, 2): block of the first header of each sample, and the block after its last file; a block has 512 bytes."""


class BadSampleError(Exception):
    """A sample that cannot be read; `skip` has the reason. The caller continues with another sample."""

    def __init__(self, skip: Skip) -> None:
        super().__init__(f"{skip.reason} {skip.key}: {skip.detail}")
        self.skip = skip


@dataclass(frozen=True, slots=True)
class Members:
    """Contents of the files of one sample, None for a missing file. Of two files of one kind, the first is used."""

    key: str
    extension: str
    image: bytes | None
    text: bytes | None
    json: bytes | None
    cls: bytes | None = None


class MemberLimits:
    """Limits on the files of a sample by their kind, compared with the sizes in their headers before they are read.

    Args:
        limits: limits on a sample.
    """

    def __init__(self, limits: SampleLimits) -> None:
        self.bytes = (limits.max_image_bytes, limits.max_caption_bytes, limits.max_json_bytes, limits.max_caption_bytes)

    def check(self, key: str, kind: int, member: Member, tar: str, tar_bytes: int) -> None:
        """Raise if a file has too many bytes.

        Args:
            key: key of the sample.
            kind: as `split_member_name` returns it.
            member: the file.
            tar: name of the tar, for messages.
            tar_bytes: size of the tar in bytes.

        Raises:
            BadSampleError: see above; or the tar is cut off within the file.
        """
        if member.size <= self.bytes[kind]:
            return
        if member.offset + member.size > tar_bytes:
            raise unreadable_error(key, f"{tar} ends within it")
        name = ("max_image_bytes", "max_caption_bytes", "max_json_bytes", "max_caption_bytes")[kind]
        reason = records.CAPTION_TOO_LONG if kind == TEXT_KINDS["txt"] else records.TOO_LARGE
        what = ("image", "txt", "json", "cls")[kind]
        raise BadSampleError(Skip(reason, key, f"its {what} has {member.size} bytes; {name} is {self.bytes[kind]}"))


class TarFile:
    """A tar file with the positions of its samples.

    Args:
        path: the file.
        limits: limits on the files of a sample and on extended headers.

    Attributes:
        keys: keys of the samples, in the order of their first files.
        spans: spans of the samples.
        interleaved: rows whose files are separated by files of other samples.
        scattered: rows whose spans hold more than `MAX_HEADERS_IN_SPAN` headers. Reading them by their spans would take
            longer the more samples the shard has.

    Raises:
        BadSampleError: the file is not a tar or cannot be read. A damaged tar gives the samples before the damage.
    """

    def __init__(self, path: Path, limits: SampleLimits = DEFAULT_LIMITS) -> None:
        self.path = path
        self._limits = MemberLimits(limits)
        try:
            found = scan(path, limits.max_header_bytes)
            self._file = path.open("rb", buffering=0)
        except (OSError, tarfile.TarError) as error:
            raise unreadable_error(str(path), f"{type(error).__name__}: {error}") from None
        self._length, self._end = os.fstat(self._file.fileno()).st_size, found.end
        self._files, self.interleaved, self.scattered = _group_by_key(found.members)
        self.keys = list(self._files)
        files_of = [list(files.values()) for files in self._files.values()]
        spans = [(files[0].start, files[-1].end) for files in files_of]
        self.spans: Spans = np.array(spans, np.int64).reshape(len(spans), 2) // BLOCK

    def read(self, row: int) -> Members:
        """Return the files of sample number `row`, from 0.

        Raises:
            BadSampleError: the tar ends within the sample, a file is above a limit, or reading fails.
        """
        if row >= len(self.keys):
            raise unreadable_error(f"{self.path}#{row}", f"only {len(self.keys)} samples can be found")
        key = self.keys[row]
        files = self._files[key]
        for kind, file in files.items():
            self._limits.check(key, kind, file, str(self.path), self._length)
        try:
            # Only the sample's own files, so that interleaved samples are not read as well.
            content = b"".join(self._bytes_of(file, key) for file in files.values())
            sample = next(read_samples(io.BytesIO(content), str(self.path)))
        except StopIteration:
            raise unreadable_error(key, f"{self.path}: webdataset finds no sample") from None
        except _DAMAGE_ERRORS as error:
            raise unreadable_error(key, f"{self.path}: {type(error).__name__}: {error.args[:1]}") from None
        image = next((extension for extension in sample if extension in _EXTENSIONS), "")
        texts = (sample.get(extension) for extension in TEXT_KINDS)
        return Members(key, _EXTENSIONS.get(image, ""), sample.get(image), *texts)

    def _bytes_of(self, file: Member, key: str) -> bytes:
        if file.offset + file.size > self._length:
            raise unreadable_error(key, f"{self.path} ends within it")
        self._file.seek(file.start)
        found = self._file.read(file.end - file.start)
        return found + bytes(-len(found) % BLOCK)  # the last file of a tar may lack its padding

    def find_damage(self) -> str | None:
        """Return why samples may be missing at the end of the tar, or None. Reads what follows the last file.

        Raises:
            OSError: reading fails.
        """
        return find_damage(self.path, self._end)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_samples(stream: io.BytesIO, url: str) -> Iterator[dict[str, Any]]:
    """Return webdataset's samples of a tar, or of a part of one, whose headers have been checked.

    Args:
        stream: complete files with their headers.
        url: name of the tar for webdataset's messages.
    """
    wds = import_webdataset()
    files = wds.tar_file_expander([{"url": url, "stream": stream}], select_files=_is_used, eof_value=None)
    # The handler ignores a second file of the same kind, the only error that can occur here.
    samples: Iterator[dict[str, Any]] = wds.group_by_keys(files, handler=wds.ignore_and_continue)
    return samples


def _is_used(name: str) -> bool:
    return split_member_name(name)[1] is not None


def _group_by_key(members: list[Member]) -> tuple[dict[str, dict[int, Member]], frozenset[int], frozenset[int]]:
    """Return the first file of each kind of each key, and the rows that are interleaved and scattered (`TarFile`)."""
    files: dict[str, dict[int, Member]] = {}
    rows: dict[str, tuple[int, int]] = {}  # row and number of its first member
    interleaved: set[int] = set()
    scattered: set[int] = set()
    before = ""
    for number, member in enumerate(members):
        key, kind, _ = split_member_name(member.name)
        followed, before = key == before, key
        if kind is None:
            continue
        if key not in files:
            rows[key] = len(files), number
            files[key] = {}
        row, first = rows[key]
        if files[key] and not followed:
            interleaved.add(row)
        if kind not in files[key]:
            files[key][kind] = member
            if number - first >= MAX_HEADERS_IN_SPAN:
                scattered.add(row)
    return files, frozenset(interleaved), frozenset(scattered)


def split_member_name(name: str) -> tuple[str, int | None, str]:
    """Return the key of the sample, the kind (0: image, above: a text, None: unused) and the extension of an image."""
    folder, _, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    extension = extension.lower()
    image = _EXTENSIONS.get(extension, "")
    kind = 0 if image else TEXT_KINDS.get(extension)
    return f"{folder}/{stem}" if folder else stem, kind if stem and not _META.match(name) else None, image


def unreadable_error(key: str, fault: str) -> BadSampleError:
    """Return the error for a sample, or a whole shard, that cannot be read."""
    return BadSampleError(Skip(records.UNREADABLE_SHARD, key, fault))


@cache
def import_webdataset() -> SimpleNamespace:
    """Import webdataset's `TarWriter`, `tar_file_expander`, `group_by_keys` and `ignore_and_continue` without torch.

    `import webdataset` imports torch for its `WebLoader`, which is not used here: 380 MB and two seconds of CPU time
    for each process of `prepare`. webdataset has fallbacks if torch is not installed, so torch is hidden during this
    import. Afterwards webdataset is removed from `sys.modules`, so that a later import gets all of it. Where torch is
    already loaded, it is not hidden.
    """
    hide = "torch" not in sys.modules and "webdataset" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from webdataset.handlers import ignore_and_continue
        from webdataset.tariterators import group_by_keys, tar_file_expander
        from webdataset.writer import TarWriter
    finally:
        if hide:
            for name in [name for name in sys.modules if name == "torch" or name.partition(".")[0] == "webdataset"]:
                del sys.modules[name]
    return SimpleNamespace(
        TarWriter=TarWriter,
        tar_file_expander=tar_file_expander,
        group_by_keys=group_by_keys,
        ignore_and_continue=ignore_and_continue,
    )
