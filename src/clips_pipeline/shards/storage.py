"""Files on this machine and elsewhere (`s3://`, `gs://`, `http://`), by fsspec, with bounded retries.

fsspec is imported where it is used: the Kedro process starts without it, and a forked worker makes connections of its own.
"""

import logging
import os
import random
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast

from clips_pipeline.config import ConfigError
from clips_pipeline.shards.addresses import is_remote

log = logging.getLogger(__name__)

T = TypeVar("T")
Options = Mapping[str, Mapping[str, Any]]

_LISTED = ("s3", "gs", "gcs")
_WORTH_A_LISTING = 8
_ASKED_AT_A_TIME = 16
_LONGEST_PAUSE_S = 60.0
# Asking again may help: the server is busy, or asks to be asked later.
_BUSY = (408, 425, 429)


class StorageError(OSError):
    """A file that cannot be had or written; the message names address, attempts and cause."""


@dataclass(frozen=True)
class StorageConfig:
    """How files elsewhere are reached.

    Attributes:
        retries: further attempts after one that failed, for each file.
        back_off_s: seconds before the first of them; each further pause is twice as long, and a little random.
        timeout_s: seconds without a byte after which an attempt has failed.
        unreachable: a shard that cannot be had ends the run (`stop`), or its samples are left out and counted (`skip`).
        allow_pipe: whether `pipe:COMMAND` may be an address, which runs COMMAND in a shell.
        cache_gib: of disk for copies of remote shards; those used longest ago make room.
    """

    retries: int = 5
    back_off_s: float = 0.5
    timeout_s: float = 60.0
    unreachable: Literal["stop", "skip"] = "stop"
    allow_pipe: bool = False
    cache_gib: float = 100.0

    def __post_init__(self) -> None:
        if self.retries < 0 or self.back_off_s < 0 or self.timeout_s <= 0 or self.cache_gib <= 0:
            raise ConfigError("retries and back_off_s must not be negative, timeout_s and cache_gib must be above 0")


@dataclass(frozen=True)
class Storage:
    """Reads and writes whole files by address. Pickles.

    Attributes:
        config: retries and time-outs.
        options: for fsspec, by protocol, such as `{"s3": {"key": …, "secret": …}}`; never shown.
    """

    config: StorageConfig = field(default_factory=StorageConfig)
    options: Options = field(default_factory=dict, repr=False)

    def size(self, address: str) -> int:
        """Bytes of a file.

        Raises:
            StorageError: it cannot be reached.
        """
        if not is_remote(address):
            return self._try(address, lambda: _path(address).stat().st_size)
        return int(self._info(address)["size"])

    def identity(self, address: str) -> str:
        """What changes when the file does: its size with its entity tag or time of change; reads no content.

        Raises:
            StorageError: it cannot be reached.
        """
        if not is_remote(address):
            stat = self._try(address, lambda: _path(address).stat())
            return f"{stat.st_size} {stat.st_mtime_ns}"
        if address.startswith("pipe:"):
            return address
        return _identity(self._info(address))

    def identities(self, addresses: Sequence[str]) -> list[str]:
        """`identity` of many: folders of an object store are listed once, others asked side by side.

        Raises:
            StorageError: one cannot be reached.
        """
        folders: dict[str, list[str]] = {}
        for address in addresses:
            if address.split("://", 1)[0] in _LISTED:
                folders.setdefault(address.rpartition("/")[0], []).append(address)
        known: dict[str, str] = {}
        for folder, inside in folders.items():
            if len(inside) >= _WORTH_A_LISTING:
                known |= self._listed(folder)
        with ThreadPoolExecutor(_ASKED_AT_A_TIME) as pool:
            rest = [address for address in addresses if address not in known]
            known |= dict(zip(rest, pool.map(self.identity, rest), strict=True))
        return [known[address] for address in addresses]

    def _listed(self, folder: str) -> dict[str, str]:
        def listed() -> dict[str, str]:
            fs, path = self._fs(folder)
            return {
                str(fs.unstrip_protocol(info["name"])): _identity(info)
                for info in fs.ls(path, detail=True, refresh=True)
            }

        return self._try(folder, listed)

    @contextmanager
    def local(self, address: str) -> Iterator[Path]:
        """The file on this machine: itself, or a copy that is removed afterwards.

        Raises:
            StorageError: it cannot be had.
        """
        if not is_remote(address):
            path = _path(address)
            self._try(address, path.stat)
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="clips-shard-") as folder:
            target = Path(folder, "shard")
            self.fetch(address, target)
            yield target

    def fetch(self, address: str, target: Path) -> None:
        """Copy a whole file to `target`: written aside, brought to the disk and renamed.

        Raises:
            StorageError: it cannot be had, or the disk is full.
        """
        aside = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            self._try(address, lambda: self._copy(address, aside))
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def put(self, file: Path, address: str) -> None:
        """Copy a file of this machine to `address`; folders on the way are made.

        Raises:
            StorageError: it cannot be written.
        """
        if address.startswith("pipe:"):
            raise ConfigError(f"{shown(address)}: a command cannot be written to; give a path or a URL")

        def write() -> None:
            fs, path = self._fs(address)
            fs.makedirs(fs._parent(path), exist_ok=True)
            fs.put_file(str(file), path)

        if is_remote(address):
            self._try(address, write)
            return
        target = _path(address)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{os.getpid()}.part")
        self._try(address, lambda: shutil.copyfile(file, aside))
        aside.replace(target)

    def open(self, address: str) -> BinaryIO:
        """Open for reading at any place, for formats such as Parquet; what is read later is not retried here.

        Raises:
            StorageError: it cannot be opened.
        """
        if not is_remote(address):
            return self._try(address, lambda: _path(address).open("rb"))
        if address.startswith("pipe:"):
            raise ConfigError(f"{shown(address)}: the output of a command cannot be read at any place; name a file")

        def opened() -> BinaryIO:
            fs, path = self._fs(address)
            return cast(BinaryIO, fs.open(path, "rb"))

        return self._try(address, opened)

    def list(self, pattern: str) -> list[str]:
        """Addresses that match a pattern with `*`, sorted.

        Raises:
            StorageError: the folder cannot be reached.
        """

        def found() -> list[str]:
            fs, path = self._fs(pattern)
            return sorted(str(fs.unstrip_protocol(name)) if is_remote(pattern) else name for name in fs.glob(path))

        return self._try(pattern, found)

    def _info(self, address: str) -> dict[str, Any]:
        def info() -> dict[str, Any]:
            fs, path = self._fs(address)
            # Instances are kept and so are their listings: a file may have changed since.
            fs.invalidate_cache()
            found: dict[str, Any] = fs.info(path)
            if found.get("size") is None:
                raise ValueError("the server does not say how long the file is")
            return found

        return self._try(address, info)

    def _fs(self, address: str) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        protocol = address.split("://", 1)[0] if "://" in address else "file"
        options = _with_timeout(protocol, self.config.timeout_s, dict(self.options.get(protocol, {})))
        fs, path = url_to_fs(address, **options)
        return fs, path

    def _copy(self, address: str, target: Path) -> None:
        if address.startswith("pipe:"):
            with target.open("wb") as out:
                self._run(address, out)
        elif is_remote(address):
            fs, path = self._fs(address)
            # One request for the whole; the libraries notice when fewer bytes come than were announced.
            fs.get_file(path, str(target))
        else:
            shutil.copyfile(_path(address), target)
        with target.open("rb") as written:
            os.fsync(written.fileno())

    def _run(self, address: str, out: BinaryIO) -> None:
        """The command's output. It runs in a shell, as webdataset runs it, which is why it has to be allowed."""
        command = address.removeprefix("pipe:")
        done = subprocess.run(command, shell=True, stdout=out, stderr=subprocess.PIPE, check=False)  # noqa: S602
        if done.returncode:
            tail = done.stderr.decode("utf-8", "replace").strip()[-300:]
            raise OSError(f"the command ended with {done.returncode}: {tail}")

    def _try(self, address: str, work: Callable[[], T]) -> T:
        if address.startswith("pipe:") and not self.config.allow_pipe:
            raise ConfigError(
                f"{shlex.quote(shown(address))} would run a command in a shell, and whoever writes a list of shards could "
                "run anything; use s3://, gs:// or http://, or set storage.allow_pipe: true if you trust the list"
            )
        for attempt in range(self.config.retries + 1):
            try:
                return work()
            except ConfigError:
                raise
            except Exception as error:
                cause = f"{type(error).__name__}: {shown(str(error))}"
                if attempt == self.config.retries or not _may_pass(error):
                    attempts = "one attempt" if attempt == 0 else f"{attempt + 1} attempts"
                    raise StorageError(f"{shown(address)}: {attempts}, the last one failed with {cause}") from None
                pause = min(self.config.back_off_s * 2**attempt, _LONGEST_PAUSE_S)
                pause *= random.uniform(0.75, 1.25)  # noqa: S311 - so that workers do not ask in step
                log.warning("%s: %s; trying again in %.1f s", shown(address), cause, pause)
                time.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")


def shown(text: str) -> str:
    """Without user names, passwords and signatures that URLs may hold."""
    return re.sub(r"(://[^/?#\s]*?/[^?#\s]*)\?\S*", r"\1?…", re.sub(r"://[^/@\s]*@", "://…@", text))


def _identity(info: Mapping[str, Any]) -> str:
    mark = next((info[name] for name in ("ETag", "etag", "md5Hash", "LastModified", "mtime") if info.get(name)), "")
    return f"{info['size']} {mark}"


def _path(address: str) -> Path:
    return Path(address.removeprefix("file://"))


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may go better: not so where the file is missing, forbidden, or the disk is full."""
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError | ImportError):
        return False
    if isinstance(error, OSError) and error.errno in (28, 122):  # no space, quota
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in _BUSY
    # A protocol that nobody knows, or an address that cannot be taken apart.
    return not (isinstance(error, ValueError) and "rotocol" in str(error))


def _with_timeout(protocol: str, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    if protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        options["client_kwargs"] = {"timeout": timeout, **options.get("client_kwargs", {})}
    elif protocol == "s3":
        timeouts = {"connect_timeout": seconds, "read_timeout": seconds}
        options["config_kwargs"] = {**timeouts, **options.get("config_kwargs", {})}
    return options
