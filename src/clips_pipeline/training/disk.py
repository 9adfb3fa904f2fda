"""Writing what must not be lost: aside, to the disk itself, then renamed; and what to say when the disk refuses."""

import os
import shutil
from pathlib import Path


class CannotWriteError(RuntimeError):
    """A file of a run could not be written; the message names it, the reason and the remedy."""


def cannot_write(path: Path, error: OSError) -> CannotWriteError:
    """The error for people: which file, why, and how much room its disk has."""
    try:
        usage = shutil.disk_usage(path if path.exists() else path.parent)
        room = f" ({usage.free / 2**20:,.0f} MiB free of {usage.total / 2**20:,.0f} there)"
    except OSError:
        room = ""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return CannotWriteError(
        f"{path}: cannot be written: {reason}{room}; make room there, then run the same command again"
    )


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk; a file alone may survive a power cut without its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write aside, sync and rename: a reader finds the old content or the new, never a part.

    Raises:
        CannotWriteError: the disk is full, or the like; what was there before stays.
    """
    aside = path.with_name(f".{path.name}.writing")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
