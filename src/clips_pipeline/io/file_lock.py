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
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def try_lock_target(target: Path) -> Iterator[bool]:
    """Hold the lock of `lock_target` if no other process holds it; yield whether this process may make `target`.

    Where the file system has no locks, it may, and so may others: the result is made twice.
    """
    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0, fallback_to_soft=False)
    free = True
    try:
        lock.acquire()
    except Timeout:
        free = False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield free
    finally:
        lock.release()


@contextmanager
def lock_target(target: Path) -> Iterator[bool]:
    """Hold the lock `.NAME.lock` beside `target`; while another process holds it, wait and log every 30 seconds.

    Yields False, without a lock, where nothing can be written beside `target`.
    """
    # The operating system releases the lock when the process ends, even if it is killed. filelock's fallback, a plain file,
    # would outlive a killed process, and be waited for without end.
    lock = FileLock(target.with_name(f".{target.name}.lock"), fallback_to_soft=False)
    timeout, writable = 0.0, True
    while not lock.is_locked:
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            log.info("%s: another process is making it; waiting until it ends", target)
            timeout = _LOG_INTERVAL_S
        except OSError as error:
            if error.errno in _READ_ONLY:
                writable = False
            elif error.errno in _NO_LOCKS:
                log.warning("%s: no locks here (%s); make sure that no other process makes it", target, error)
            else:
                raise
            break
    try:
        yield writable
    finally:
        lock.release()
