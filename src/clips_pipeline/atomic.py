"""Atomic writes: a reader finds the old content or the new, never a part, whatever happens to the process that writes.

No library of the lock does this (fsspec's transactions neither sync nor replace folders), and `atomicwrites` is no longer kept up.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Give a temporary path in the same folder, and rename it to `path` at the end; after an error it is removed.

    Args:
        path: what stood there stays until the new content is whole. Its folder exists.
        sync: bring the content, then the name, to the disk, so that they survive a power cut.

    Raises:
        OSError: the disk is full, or the like.
    """
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
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a new, empty folder beside `folder`, and put it in its place at the end; after an error it is removed.

    Args:
        folder: replaced if it exists; folders above are made.

    Raises:
        OSError: the disk is full, or the like.
    """
    temporary = temporary_path(folder)
    before = temporary.with_name(f"{temporary.name}.before")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same number
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            folder.rename(before)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write UTF-8; see `replacing`."""
    write_bytes(path, text.encode(), sync=sync)


def write_bytes(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write bytes; see `replacing`."""
    with replacing(path, sync=sync) as temporary:
        temporary.write_bytes(content)


def temporary_path(path: Path) -> Path:
    """Where `replacing` writes; every thread of every machine has a path of its own."""
    return path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}-{threading.get_ident()}")


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk; a file alone may survive a power cut without its name."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
