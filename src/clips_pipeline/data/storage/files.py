"""Access to local and remote files (`s3://`, `gs://`, `hf://`, `http://`) through fsspec, with bounded retries.

fsspec is imported inside functions: the Kedro process starts without it, and a forked worker opens its own connections.
"""

import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar, cast

from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, NonNegativeFloat, PositiveFloat
from clips_pipeline.data.storage.credentials import refuse_secrets
from clips_pipeline.data.storage.hub import http_status
from clips_pipeline.data.storage.retry import DISK_FULL, call_with_retries, max_total_pause
from clips_pipeline.data.storage.retry import StorageError as StorageError
from clips_pipeline.data.storage.urls import file_system, is_remote, write_command_output
from clips_pipeline.io.atomic import replace_file
from clips_pipeline.io.redact import remember
from clips_pipeline.io.temporary import temporary_folder

T = TypeVar("T")
StorageOptions = Mapping[str, Mapping[str, Any]]
"""Options of fsspec by protocol."""

# A folder is only a part of the name there; creating one might create a bucket.
_PROTOCOLS_WITHOUT_FOLDERS = ("s3", "gs", "gcs", "hf", "http", "https")
_LISTABLE_PROTOCOLS = ("s3", "gs", "gcs", "hf")
_MIN_FILES_TO_LIST = 8
_MAX_CONCURRENT_REQUESTS = 16
_READ_AHEAD = 1 << 20
_MISSING = (404, 410)  # status


@dataclass(frozen=True)
class StorageConfig:
    """Access to remote files.

    Attributes:
        retries: further attempts after the first one failed, for each file.
        back_off_s: seconds before the first retry; each further pause is twice as long, with a small random part.
        timeout_s: seconds without a byte after which an attempt fails.
        unreachable: what happens if a shard cannot be read: `stop` ends the run, `skip` leaves its samples out and
            counts them.
        allow_pipe: whether `pipe:COMMAND` is allowed as an address; it runs COMMAND in a shell.
        cache_gib: disk space for copies of remote shards, in GiB; the least recently used copies are deleted first.
    """

    retries: Annotated[int, Ge(0), Le(1000)] = 5
    back_off_s: NonNegativeFloat = 0.5
    timeout_s: PositiveFloat = 60.0
    unreachable: Literal["stop", "skip"] = "stop"
    allow_pipe: bool = False
    cache_gib: PositiveFloat = 100.0

    @property
    def max_wait_s(self) -> float:
        """Upper bound on the seconds until a server that never answers is given up."""
        return self.timeout_s * (self.retries + 1) + max_total_pause(self.retries, self.back_off_s)


@dataclass(frozen=True)
class Storage:
    """Reader and writer of whole files by address. Can be pickled.

    Every method raises `ConfigError` for an address that contains a password, token or signature.

    Attributes:
        config: retries and timeouts.
        options: options of fsspec by protocol, such as `{"s3": {"key": …, "secret": …}}`; redacted in logs and errors.
    """

    config: StorageConfig = field(default_factory=StorageConfig)
    options: StorageOptions = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        remember(self.options)

    def size(self, address: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            StorageError: the file cannot be reached.
        """
        return int(self._info(address)["size"])

    def identity(self, address: str) -> str:
        """Return a text that changes when the file changes: its size with its entity tag or modification time.

        The content is not read.

        Raises:
            StorageError: the file cannot be reached.
        """
        if not is_remote(address):
            stat = self._with_retries(address, lambda: _path(address).stat())
            return f"{stat.st_size} {stat.st_mtime_ns}"
        if address.startswith("pipe:"):
            return self._with_retries(address, lambda: address)  # refused where commands are not allowed
        return _identity(self._info(address))

    def identities(self, addresses: Sequence[str]) -> list[str]:
        """Return `identity` of many files; object store folders are listed once, other files are queried in parallel.

        Raises:
            StorageError: a file cannot be reached.
        """
        folders: dict[str, list[str]] = {}
        for address in addresses:
            if address.split("://", 1)[0] in _LISTABLE_PROTOCOLS:
                folders.setdefault(address.rpartition("/")[0], []).append(address)
        known: dict[str, str] = {}
        for folder, inside in folders.items():
            if len(inside) >= _MIN_FILES_TO_LIST:
                known |= self._list_identities(folder)
        with ThreadPoolExecutor(_MAX_CONCURRENT_REQUESTS) as pool:
            rest = [address for address in addresses if address not in known]
            known |= dict(zip(rest, pool.map(self.identity, rest), strict=True))
        return [known[address] for address in addresses]

    def _list_identities(self, folder: str) -> dict[str, str]:
        def listed() -> dict[str, str]:
            fs, path = self._fs(folder)
            return {
                str(fs.unstrip_protocol(info["name"])): _identity(info)
                for info in fs.ls(path, detail=True, refresh=True)
            }

        return self._with_retries(folder, listed)

    @contextmanager
    def local_copy(self, address: str) -> Iterator[Path]:
        """Yield a local path of the file: its own path, or a copy that is deleted on exit.

        Raises:
            StorageError: the file cannot be read.
        """
        if not is_remote(address):
            path = _path(address)
            self._with_retries(address, path.stat)
            yield path
            return
        with temporary_folder() as folder:
            target = folder / "shard"
            self.fetch(address, target)
            yield target

    def fetch(self, address: str, target: Path) -> None:
        """Copy a whole file to `target` and flush it to the disk. The copy is not atomic.

        Raises:
            StorageError: the file cannot be read, or the disk is full; `target` is deleted.
        """
        try:
            self._with_retries(address, lambda: self._copy(address, target))
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def should_skip(self, error: StorageError) -> bool:
        """Return whether to skip and count the file of `error`. A full local disk is never a reason to skip."""
        return self.config.unreachable == "skip" and error.errno not in DISK_FULL

    def upload(self, file: Path, address: str) -> None:
        """Copy a local file to `address`; missing folders are created.

        Raises:
            StorageError: the address cannot be written.
        """
        if address.startswith("pipe:"):
            raise ConfigError(f"{address}: a command cannot be written to; give a path or a URL")

        def write() -> None:
            fs, path = self._fs(address)
            if address.split("://", 1)[0] not in _PROTOCOLS_WITHOUT_FOLDERS:
                fs.makedirs(fs._parent(path), exist_ok=True)
            fs.put_file(str(file), path)

        if is_remote(address):
            self._with_retries(address, write)
            return
        target = _path(address)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(target) as temporary:
            self._with_retries(address, lambda: shutil.copyfile(file, temporary))

    def open(self, address: str) -> BinaryIO:
        """Open a file for random access, for formats such as Parquet. Later reads are retried as well.

        If the server supports only whole files, the file is downloaded to a temporary file first.

        Raises:
            StorageError: the file cannot be read; reads of the returned file raise it too.
        """
        if not is_remote(address):
            return self._with_retries(address, lambda: _path(address).open("rb"))
        if not address.startswith("pipe:"):
            file = self._with_retries(address, lambda: self._open_remote(address))
            if file is not None:
                return file
        with self.local_copy(address) as path:
            # On Linux, an open file stays readable after its name is deleted.
            return path.open("rb")

    def _open_remote(self, address: str) -> BinaryIO | None:
        """Open with fsspec's read-ahead and retry each request; None if the server does not support range requests."""
        fs, path = self._fs(address)
        size = self.size(address)
        if not size:
            return None
        file = fs.open(path, "rb", size=size, block_size=_READ_AHEAD, cache_type="readahead")
        fetch = file.cache.fetcher
        try:
            # The last byte: servers without range requests can still serve the first one.
            fetch(size - 1, size)
        except ValueError:
            return None

        def read(begin: int, end: int) -> bytes:
            found: bytes = fetch(begin, end)
            if len(found) != end - begin:
                raise OSError(f"{len(found)} bytes received, {end - begin} requested")
            return found

        file.cache.fetcher = lambda begin, end: self._with_retries(address, lambda: read(begin, end))
        return cast(BinaryIO, file)

    def list(self, pattern: str) -> list[str]:
        """Return the addresses that match a pattern with `*`, sorted.

        Raises:
            StorageError: the folder cannot be reached.
        """

        def found() -> list[str]:
            fs, path = self._fs(pattern)
            return sorted(str(fs.unstrip_protocol(name)) if is_remote(pattern) else name for name in fs.glob(path))

        return self._with_retries(pattern, found)

    def _info(self, address: str) -> dict[str, Any]:
        def info() -> dict[str, Any]:
            fs, path = self._fs(address)
            # fsspec caches instances and their listings; the file may have changed since.
            fs.invalidate_cache()
            try:
                found: dict[str, Any] = fs.info(path)
            except FileNotFoundError as error:
                # fsspec says so of every HTTP error, also of a server that is busy or does not answer.
                if address.startswith("http") and http_status(error.__cause__) not in _MISSING:
                    raise error.__cause__ or error from None
                raise
            if found.get("size") is None:
                raise ValueError("the server does not report the size of the file")
            return found

        return self._with_retries(address, info)

    def _fs(self, address: str) -> tuple[Any, str]:
        return file_system(address, self.options, self.config.timeout_s)

    def _copy(self, address: str, target: Path) -> None:
        if address.startswith("pipe:"):
            with target.open("wb") as out:
                write_command_output(address.removeprefix("pipe:"), out, self.config.timeout_s)
        else:
            fs, path = self._fs(address)
            # One request for the whole file; the libraries raise if fewer bytes arrive than announced.
            fs.get_file(path, str(target))
        with target.open("rb") as written:
            os.fsync(written.fileno())

    def _with_retries(self, address: str, work: Callable[[], T]) -> T:
        if address.startswith("pipe:") and not self.config.allow_pipe:
            raise ConfigError(
                f"{shlex.quote(address)} would run a command in a shell, so the author of a list of shards could run "
                "any command; use s3://, gs://, hf:// or http://, or set storage.allow_pipe: true if you trust the list"
            )
        if is_remote(address):
            refuse_secrets(address, "address")
            remember(self.options)  # again, for a copy in another process
        return call_with_retries(work, address, retries=self.config.retries, back_off_s=self.config.back_off_s)


def _identity(info: Mapping[str, Any]) -> str:
    names = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "Last-Modified", "mtime")
    mark = next((info[name] for name in names if info.get(name)), "")
    return f"{info['size']} {mark}"


def _path(address: str) -> Path:
    return Path(address.removeprefix("file://"))
