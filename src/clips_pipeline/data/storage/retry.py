"""Bounded retries for storage access, and error messages without credentials."""

import errno
import logging
from collections.abc import Callable
from typing import TypeVar

from clips_pipeline.config import ConfigError
from clips_pipeline.data.storage.hub import find_refusal, http_status
from clips_pipeline.io.redact import redact

log = logging.getLogger(__name__)

T = TypeVar("T")

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_MAX_PAUSE_S = 60.0
# HTTP status codes worth a retry: the server is busy or asks for a later request.
_TRANSIENT_STATUS = (408, 425, 429)
# A retry cannot help: the file is missing or forbidden, or an address or option is invalid (`ValueError`, `TypeError`).
_PERMANENT_ERRORS = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    TypeError,
    AttributeError,
    ValueError,
)
# Botocore's errors, by name, to avoid importing it.
_PERMANENT_ERROR_NAMES = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError")


class StorageError(OSError):
    """A file that cannot be read or written. The message names address, attempts and cause, `errno` is the cause's.

    Args:
        message: text that may contain an address; it is redacted.

    Attributes:
        missing: the file does not exist, so a retry cannot help.
    """

    missing = False

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


def call_with_retries(work: Callable[[], T], address: str, *, retries: int, back_off_s: float) -> T:
    """Return the result of `work`, calling it again after transient errors with random, exponentially growing pauses.

    Args:
        work: the operation; each call starts from the beginning.
        address: address of the file, for messages.
        retries: further calls after the first one failed.
        back_off_s: seconds before the first retry.

    Raises:
        StorageError: the last call failed, or a call failed with an error that a retry cannot fix.
        ConfigError: raised by `work`.
    """
    # Imported here: if tornado is installed, tenacity imports it too.
    import tenacity

    def log_retry(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        problem = redact(f"{address}: {type(error).__name__}: {error}")
        log.warning("%s; trying again in %.1f s", problem, state.upcoming_sleep)

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(retries + 1),
        # The random part keeps workers from retrying at the same time.
        wait=tenacity.wait_exponential(back_off_s, max=_MAX_PAUSE_S) + tenacity.wait_random(0, back_off_s / 2),
        retry=tenacity.retry_if_exception(_is_transient),
        before_sleep=log_retry,
        reraise=True,
    )
    try:
        return retrying(work)
    except (ConfigError, StorageError):
        raise
    except Exception as error:
        tried = retrying.statistics["attempt_number"]
        attempts = "one attempt" if tried == 1 else f"{tried} attempts"
        refusal = find_refusal(error)
        missing = isinstance(error, FileNotFoundError) and refusal is None
        remedy = "; correct the path or address" if missing else ""
        failed = StorageError(
            f"{address}: {refusal or f'{attempts}, the last one failed with {type(error).__name__}: {error}{remedy}'}"
        )
        failed.errno = error.errno if isinstance(error, OSError) else None
        failed.missing = missing
        raise failed from None


def max_total_pause(retries: int, back_off_s: float) -> float:
    """Return an upper bound on the total seconds of all pauses."""
    return sum(min(back_off_s * 2.0**number, _MAX_PAUSE_S) + back_off_s / 2 for number in range(retries))


def _is_transient(error: BaseException) -> bool:
    """Return whether a retry may succeed: no if the file is missing or forbidden, or the disk is full."""
    if not isinstance(error, Exception) or isinstance(error, (StorageError, *_PERMANENT_ERRORS)):
        return False
    if type(error).__name__ in _PERMANENT_ERROR_NAMES:
        return False
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return False
    status = http_status(error)
    return status is None or status >= 500 or status in _TRANSIENT_STATUS
