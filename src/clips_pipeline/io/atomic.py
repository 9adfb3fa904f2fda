"""Atomic writes: a reader finds the old content or the new, never a part, whatever happens to the process that writes.

No library of the lock does this (fsspec's transactions neither sync nor replace folders), and `atomicwrites` is no longer kept up.
"""

import glob
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import psutil

_BEFORE = ".before"


@contextmanager
def replace_file(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Give a temporary path in the same folder, and rename it to `path` at the end; after an error it is removed.

    Args:
        path: what stood there stays until the new content is whole. Its folder exists.
        sync: bring the content, then the name, to the disk, so that they survive a power cut.

    Raises:
        OSError: the disk is full, or the like.
    """
    _remove_leftovers_once(path.parent)
    temporary = temporary_path(path)
    try:
        yield temporary
        if sync:
            _sync(temporary)
        temporary.replace(path)
        if sync:
            sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Give a new, empty folder beside `folder`, and put it in its place at the end; after an error the old one stays.

    Args:
        folder: replaced if it exists; folders above are made.

    Raises:
        OSError: the disk is full, or the like.
    """
    _remove_leftovers(folder.parent, glob.escape(folder.name))
    temporary = temporary_path(folder)
    before = temporary.with_name(f"{temporary.name}{_BEFORE}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same number
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            folder.rename(before)
        temporary.rename(folder)
    finally:
        if before.exists() and not folder.exists():
            before.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write UTF-8; see `replacing`."""
    write_bytes(path, text.encode(), sync=sync)


def write_bytes(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write bytes; see `replacing`."""
    with replace_file(path, sync=sync) as temporary:
        temporary.write_bytes(content)


def temporary_path(path: Path) -> Path:
    """Where `replacing` writes; every thread of every machine has a path of its own."""
    return path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}-{threading.get_ident()}")


@lru_cache
def _remove_leftovers_once(parent: Path) -> None:
    """For files: a folder may hold hundreds of thousands of them, and is not listed for each."""
    _remove_leftovers(parent, "*")


def _remove_leftovers(parent: Path, name: str) -> None:
    """Remove what killed processes of this machine left beside files and folders that match `name`.

    A folder's content may be versioned, stray files with it.
    """
    host = os.uname().nodename
    for left in parent.glob(f".{name}.{glob.escape(host)}-*"):
        target, _, writer = left.name[1:].rpartition(f".{host}-")
        process = writer.split("-")[0]
        # A folder that was moved aside and never replaced may be the only copy.
        only_copy = left.suffix == _BEFORE and not (parent / target).exists()
        if not process.isdigit() or psutil.pid_exists(int(process)) or only_copy:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk; a file alone may survive a power cut without its name."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
