"""A lock between processes that make the same file or folder: the second one waits, and then finds it made."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_LOG_INTERVAL_S = 30.0
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def lock_target(target: Path) -> Iterator[bool]:
    """Hold the lock `.NAME.lock` beside `target`; while another process holds it, wait and log every 30 seconds.

    Yields False, without a lock, where nothing can be written beside `target`.
    """
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    timeout, locked = 0.0, False
    # The operating system releases the lock when the process ends, even if it is killed.
    while not locked:
        try:
            lock.acquire(timeout=timeout)
            locked = True
        except Timeout:
            log.info("%s: another process is making it; waiting until it ends", target)
            timeout = _LOG_INTERVAL_S
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            break
    try:
        yield locked
    finally:
        lock.release()
