"""Locks on a folder of shards: no environment replaces another's data, or data that a training reads.

Readers hold a shared lock on `index.json`; `prepare` holds an exclusive one while it replaces the folder. The operating
system releases a lock when its process ends. Nothing is written, so data on a read-only file system can be locked too.
"""

import fcntl
import json
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from clips_pipeline.config import ConfigError
from clips_pipeline.io.atomic import write_text

INDEX_FILE = "index.json"

# Children of a process that was just killed may need a moment to exit.
_MAX_WAIT_S = 5.0


@dataclass(frozen=True)
class FolderOwner:
    """The environment and source that prepare a folder of shards.

    Attributes:
        environment: Kedro environment.
        kind: kind of the source.
        addresses: images or shards of the source; empty for the embedded data.
    """

    environment: str
    kind: str
    addresses: tuple[str, ...] = ()

    def __str__(self) -> str:
        addresses = (
            f" ({', '.join(self.addresses[:2])}{', …' if len(self.addresses) > 2 else ''})" if self.addresses else ""
        )
        return f"data of the source {self.kind}{addresses}, made by the environment {self.environment}"


def claim(shards: Path, owner: FolderOwner) -> None:
    """Record that `owner` prepares the folder `shards`.

    Raises:
        ConfigError: the folder holds data of another environment and another source.
    """
    file = shards.with_name(f".{shards.name}.maker.json")
    before = _read(file)
    other_source = before is not None and (before.kind, before.addresses) != (owner.kind, owner.addresses)
    if before is not None and other_source and before.environment != owner.environment and shards.exists():
        raise ConfigError(
            f"{shards} holds {before}; {owner.environment} would replace it by its own ({owner.kind}). Set data_root in "
            f"conf/{owner.environment}/globals.yml to another folder, or delete {shards}"
        )
    if before != owner:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(asdict(owner), indent=1) + "\n")


def _read(file: Path) -> FolderOwner | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return FolderOwner(found["environment"], found["kind"], tuple(found["addresses"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class ReadLock:
    """Shared lock that keeps `prepare` from replacing a folder while this object, or a fork of its process, exists.

    Raises:
        ConfigError: `prepare` is replacing the folder.
    """

    def __init__(self, shards: Path) -> None:
        try:
            descriptor = os.open(shards / INDEX_FILE, os.O_RDONLY)
        except OSError:
            return  # reading the index raises the error
        weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            holders = _describe_holders(descriptor)
            raise ConfigError(f"{shards} is being replaced by {holders}; wait for that process or stop it") from None
        except OSError:
            return  # the file system does not support locks


@contextmanager
def lock_for_replacement(shards: Path) -> Iterator[None]:
    """Hold an exclusive lock on the folder while it is replaced.

    Raises:
        ConfigError: another process reads the folder.
    """
    try:
        descriptor = os.open(shards / INDEX_FILE, os.O_RDWR)
    except OSError:
        yield  # no index, so no readers
        return
    try:
        until = time.monotonic() + _MAX_WAIT_S
        # Readers in this process, such as a notebook, are not waited for.
        while not _try_lock(descriptor) and set(_holder_pids(descriptor)) != {os.getpid()}:
            if time.monotonic() > until:
                raise ConfigError(
                    f"{shards} is in use by {_describe_holders(descriptor)}, and these parameters would replace it; wait for that "
                    "process or stop it, or set another data_root in conf/<env>/globals.yml"
                )
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # the file system does not support locks
    return True


def _describe_holders(descriptor: int) -> str:
    names = [f"process {pid}{_command_line(pid)}" for pid in _holder_pids(descriptor)[:3]]
    return " and ".join(names) or "another process"


def _holder_pids(descriptor: int) -> list[int]:
    """Return the processes that hold a lock on the file; empty if the system has no /proc/locks."""
    inode = str(os.fstat(descriptor).st_ino)
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    fields = [line.split() for line in lines if "->" not in line]
    return sorted({int(f[4]) for f in fields if len(f) > 5 and f[1] == "FLOCK" and f[5].split(":")[-1] == inode})


def _command_line(pid: int) -> str:
    try:
        words = " ".join(psutil.Process(pid).cmdline()).split()
    except psutil.Error:
        return ""
    return f" ({' '.join(words)[:120]})"
