"""Durable writes for the files of a run, with errors that name the file, the reason and the free disk space."""

import errno
import os
import shutil
from pathlib import Path

from clips_pipeline.io import atomic


class CannotWriteError(RuntimeError):
    """A file of a run cannot be written. The message names the file, the reason and the remedy."""


def write_error(path: Path, error: OSError) -> CannotWriteError:
    """Return an error that names the file, the reason and the free space of its disk."""
    try:
        usage = shutil.disk_usage(path if path.exists() else path.parent)
        space = f" ({usage.free / 2**20:,.0f} MiB free of {usage.total / 2**20:,.0f} there)"
    except OSError:
        space = ""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return CannotWriteError(
        f"{path}: cannot be written: {reason}{space}; make room there, then run the same command again"
    )


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
# SQLite reports them without a number.
_SQLITE_ERRORS = ("database or disk is full", "attempt to write a readonly database", "unable to open database file")


def find_disk_error(error: BaseException | None) -> CannotWriteError | None:
    """Return the error for the user if a full, read-only or forbidden disk is the cause of `error`."""
    while error is not None:
        if isinstance(error, CannotWriteError):
            return error
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is not None:
            return write_error(Path(os.fsdecode(error.filename)), error)
        if isinstance(error, OSError) and error.errno in (*_FULL, *_FORBIDDEN):
            where = "a file" if error.filename is None else os.fsdecode(error.filename)
            remedy = (
                "make room" if error.errno in _FULL else "allow access, or set another folder in conf/<env>/globals.yml"
            )
            return CannotWriteError(f"{where}: {os.strerror(error.errno)}; {remedy}, then run the same command again")
        text = next((text for text in _SQLITE_ERRORS if text in str(error)), None)
        if text is not None:
            return CannotWriteError(
                f"SQLite ({error.__class__.__name__}): {text}; make room or allow access in the folder of the database, such as "
                "mlruns, then run the same command again"
            )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


class DiskReserve:
    """Reserved disk space, released when the disk is full so that the run can still write its error.

    Args:
        folder: a folder on that disk.
    """

    BYTES = 1 << 16

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".reserve"

    def __enter__(self) -> "DiskReserve":
        """Reserve the space.

        Raises:
            CannotWriteError: the disk is full.
        """
        try:
            self._path.write_bytes(os.urandom(self.BYTES))  # some file systems do not allocate blocks for zeros
        except OSError as error:
            self.free()
            raise write_error(self._path, error) from error
        return self

    def free(self) -> None:
        """Release the space."""
        self._path.unlink(missing_ok=True)

    def __exit__(self, *exception: object) -> None:
        """Release the space."""
        self.free()


def write_text(path: Path, text: str) -> None:
    """Write text atomically and flush it to the disk.

    Raises:
        CannotWriteError: the file cannot be written, for example because the disk is full; the old file stays.
    """
    try:
        atomic.write_text(path, text, sync=True)
    except OSError as error:
        raise write_error(path, error) from error
