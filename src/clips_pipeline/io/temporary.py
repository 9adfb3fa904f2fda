"""Folders for large copies, which the next start removes if their process was killed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import psutil

_PREFIX = "clips-shard-"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder below `TMPDIR`, and delete it afterwards; delete those of killed processes before."""
    parent = Path(tempfile.gettempdir())
    _remove_leftovers_once(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    # Shows to other processes that this one lives, also to those in another container, which see other process ids.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@lru_cache
def _remove_leftovers_once(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        process = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)) and folder.is_dir() and not folder.is_symlink():
            _remove_if_unlocked(folder)


def _remove_if_unlocked(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return  # of another user
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # a process holds the lock
    finally:
        os.close(descriptor)
