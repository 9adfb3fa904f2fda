"""A storage for a short look: of remote shards, it copies only the beginning that holds the first samples."""

import io
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards.tar_file import BadSampleError, TarFile
from clips_pipeline.data.shards.tar_headers import BLOCK
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.data.storage.retry import StorageError
from clips_pipeline.data.storage.urls import file_system, is_remote, write_command_output
from clips_pipeline.io.temporary import temporary_folder

_FIRST_BYTES = 1 << 20
_MAX_BYTES = 256 << 20
_TIMEOUT_S = 10.0
_STREAMED = ("http", "https", "hf")
"""Protocols whose file systems read a file from its beginning in one request, without knowing its size."""


@dataclass(frozen=True)
class FirstSamples(Storage):
    """A storage that copies as much of a remote tar as its first samples take; other files are copied whole.

    Attributes:
        samples: number of samples.
        limits: limits on a sample.
        max_bytes: bytes of a file after which it is not read further.
        max_seconds: the same in seconds, for a server that sends a few bytes now and then.
    """

    ending: ClassVar[bytes] = bytes(2 * BLOCK)
    """What ends a tar, so that a copied beginning does not count as damaged."""
    samples: int = 10
    limits: SampleLimits = DEFAULT_LIMITS
    max_bytes: int = _MAX_BYTES
    max_seconds: float = 60.0

    @contextmanager
    def local_copy(self, address: str) -> Iterator[Path]:
        """Yield a local path of the file: its own path, or a copy of its beginning that is deleted on exit.

        Raises:
            StorageError: the file cannot be read, or holds no sample in its first `max_bytes`.
        """
        if not is_remote(address):
            with super().local_copy(address) as path:
                yield path
            return
        with temporary_folder() as folder:
            target = folder / "shard"
            self._with_retries(address, lambda: self._copy_beginning(address, target))
            yield target

    def end_of_samples(self, path: Path, *, at_least_one: bool) -> int:
        """Return where the first samples of a copied beginning end, in bytes; 0 if they are not complete.

        Args:
            path: the copy so far.
            at_least_one: whether fewer samples are enough, because no more is read.
        """
        try:
            with TarFile(path, self.limits) as tar:
                ends = [int(end) * BLOCK for _, end in tar.spans]
        except BadSampleError:
            return 0
        # The last sample may have more files that are not copied yet.
        complete = [end for end in ends[:-1] if end <= path.stat().st_size]
        if len(complete) < self.samples and not (at_least_one and complete):
            return 0
        return max(complete[: self.samples])

    def _copy_beginning(self, address: str, target: Path) -> None:
        with target.open("wb") as out:
            beginning = _Beginning(out, target, self, address)
            try:
                if address.startswith("pipe:"):
                    write_command_output(
                        address.removeprefix("pipe:"), cast(BinaryIO, beginning), self.config.timeout_s
                    )
                else:
                    self._copy_stream(address, beginning)
            except _Enough:
                out.truncate(beginning.end)
                out.seek(beginning.end)
                out.write(self.ending)

    def _copy_stream(self, address: str, out: "_Beginning") -> None:
        fs, path = file_system(address, self.options, self.config.timeout_s)
        streamed = address.split("://", 1)[0] in _STREAMED
        size = _FIRST_BYTES
        with closing(fs.open(path, "rb", **({"block_size": 0} if streamed else {"cache_type": "none"}))) as file:
            while chunk := file.read(size):
                out.write(chunk)
                size = min(2 * size, 8 * _FIRST_BYTES)


class _Enough(Exception):  # noqa: N818 - ends a copy, and is no error
    """The copy holds what is wanted."""


class _Beginning(io.RawIOBase):
    """A file that raises `_Enough` as soon as it holds the first samples; `end` is where they end, in bytes."""

    def __init__(self, out: BinaryIO, path: Path, storage: FirstSamples, address: str) -> None:
        self._out, self._path, self._storage, self._address = out, path, storage, address
        self._written, self._look_at = 0, _FIRST_BYTES // 2
        self._until = time.monotonic() + storage.max_seconds
        self.end = 0

    def write(self, data: Any) -> int:
        """Append bytes."""
        self._out.write(data)
        self._written += len(data)
        too_much = self._written >= self._storage.max_bytes or time.monotonic() > self._until
        if self._written >= self._look_at or too_much:
            self._look_at = 2 * self._written
            self._out.flush()
            self.end = self._storage.end_of_samples(self._path, at_least_one=too_much)
            if self.end:
                raise _Enough
        if too_much:
            raise StorageError(
                f"{self._address}: no complete sample in the first {self._written:,} bytes, read for at most "
                f"{self._storage.max_seconds:g} s; check that it is a tar of samples, and its server"
            )
        return len(data)


def brief(storage: Storage, samples: int, limits: SampleLimits) -> FirstSamples:
    """Return a storage for the first samples, which gives up after one retry, and after ten seconds without a byte."""
    config = storage.config
    # Whoever looks wants to know that a shard cannot be reached, so it is not skipped.
    config = replace(
        config,
        retries=min(1, config.retries),
        timeout_s=min(_TIMEOUT_S, config.timeout_s),
        unreachable="stop",
    )
    return FirstSamples(config, storage.options, samples, limits)
