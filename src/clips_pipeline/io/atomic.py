"""Atomic writes: a reader finds the old content or the new content, never a part, even if the writer is killed.

No library in the lock file does this: fsspec's transactions neither sync nor replace folders, and `atomicwrites` is no
longer maintained.
"""

import glob
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import psutil

_OLD_SUFFIX = ".before"


@contextmanager
def replace_file(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder and rename it to `path` on exit; after an error, delete it.

    Args:
        path: the file to write. An existing file stays until the new content is complete. Its folder must exist.
        sync: flush the content and then the name to the disk, so that both survive a power failure.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
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
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a write does not name its file
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield a new, empty folder beside `folder` and rename it to `folder` on exit; after an error, keep the old one.

    Args:
        folder: the folder to write; replaced if it exists. Missing parent folders are created.

    Raises:
        OSError: the folder cannot be written, for example because the disk is full.
    """
    _remove_leftovers(folder.parent, glob.escape(folder.name))
    temporary = temporary_path(folder)
    old = temporary.with_name(f"{temporary.name}{_OLD_SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process that had the same process id
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target`, which does not exist, a second name of a file, or its copy where the file system has no links."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write UTF-8 text atomically; see `replace_file`."""
    write_bytes(path, text.encode(), sync=sync)


def write_bytes(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write bytes atomically; see `replace_file`."""
    with replace_file(path, sync=sync) as temporary:
        temporary.write_bytes(content)


def temporary_path(path: Path) -> Path:
    """Return the path that `replace_file` writes to; it differs for every machine, process and thread."""
    return path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}-{threading.get_ident()}")


@lru_cache
def _remove_leftovers_once(parent: Path) -> None:
    """Clean up once per folder and process: a folder may hold hundreds of thousands of files."""
    _remove_leftovers(parent, "*")


def _remove_leftovers(parent: Path, name: str) -> None:
    """Delete temporary files and folders that killed processes of this machine left beside targets matching `name`.

    They must not stay, because the content of the folder may be versioned.
    """
    host = os.uname().nodename
    for leftover in parent.glob(f".{name}.{glob.escape(host)}-*"):
        target, _, writer = leftover.name[1:].rpartition(f".{host}-")
        process = writer.split("-")[0]
        # If the target is missing, the renamed old folder may be the only copy.
        only_copy = leftover.suffix == _OLD_SUFFIX and not (parent / target).exists()
        if not process.isdigit() or psutil.pid_exists(int(process)) or only_copy:
            continue
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk; without it, a synced file may lose its name in a power failure."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
