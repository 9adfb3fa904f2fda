"""Errors that nobody foresaw: they cost the sample that raised them, not the run."""

import errno
import logging

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.data.shards.records import Skip
from clips_pipeline.data.shards.tar_file import BadSampleError
from clips_pipeline.data.storage.retry import DISK_FULL, StorageError

log = logging.getLogger(__name__)

UNEXPECTED = "unexpected"

# Errors of this machine; the next sample would meet them too.
_MACHINE_ERRORS = frozenset((*DISK_FULL, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE))

_logged: set[type[Exception]] = set()


def make_skip(error: Exception, key: str) -> Skip:
    """Return the skip for what a sample raised: with its reason if that is known, else `unexpected: TYPE`.

    Args:
        error: the error, which is being handled.
        key: key of the sample.

    Raises:
        Exception: `error` itself, if not the sample but the configuration, the storage or this machine is at fault.
    """
    if isinstance(error, BadSampleError):
        return error.skip
    if isinstance(error, UndecodableImageError):
        return Skip(error.reason, key, str(error))
    if isinstance(error, ConfigError | StorageError):
        raise error
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
        raise error
    log_once(error)
    return Skip(f"{UNEXPECTED}: {type(error).__name__}", key, str(error)[:3_000])


def log_once(error: Exception) -> None:
    """Log the traceback of the first error of each type in this process, at DEBUG."""
    if type(error) not in _logged:
        _logged.add(type(error))
        log.debug("a sample raised an error that nobody foresaw", exc_info=error)
