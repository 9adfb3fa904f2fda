"""Writing what must not be lost: aside, to the disk itself, then renamed; and what to say when the disk refuses."""

import os
import shutil
from pathlib import Path

from clips_pipeline.io import atomic


class CannotWriteError(RuntimeError):
    """A file of a run could not be written; the message names it, the reason and the remedy."""


def write_error(path: Path, error: OSError) -> CannotWriteError:
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


class DiskReserve:
    """Some room that is given back when the disk is full, so that the run can still say so.

    Args:
        folder: on that disk.
    """

    BYTES = 1 << 16

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".reserve"

    def __enter__(self) -> "DiskReserve":
        """Take it.

        Raises:
            CannotWriteError: there is none.
        """
        try:
            self._path.write_bytes(os.urandom(self.BYTES))  # zeros might be stored as nothing
        except OSError as error:
            self.free()
            raise write_error(self._path, error) from error
        return self

    def free(self) -> None:
        """Give it back."""
        self._path.unlink(missing_ok=True)

    def __exit__(self, *exception: object) -> None:
        """Give it back."""
        self.free()


def write_text(path: Path, text: str) -> None:
    """Write to the disk itself: a reader finds the old content or the new, never a part.

    Raises:
        CannotWriteError: the disk is full, or the like; what was there before stays.
    """
    try:
        atomic.write_text(path, text, sync=True)
    except OSError as error:
        raise write_error(path, error) from error
