"""One training per run folder: locks, and the error that names the process that holds one. Does not import torch.

There are two locks: that of the launcher, and that of rank 0, which outlives a killed launcher for a moment and may have been
started by another user. Both are locks of the operating system (`flock`), so they end with their process.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from clips_pipeline.config import ConfigError

log = logging.getLogger(__name__)

LAUNCHER = "launch.lock"
RANK_0 = "worker.lock"

_POLL_SECONDS = 0.2


@contextmanager
def lock_run_folder(run_folder: Path, name: str, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold a lock of the run folder.

    Args:
        run_folder: an existing run folder.
        name: `LAUNCHER` or `RANK_0`.
        timeout_s: seconds to wait for another process that holds the lock.

    Raises:
        ConfigError: another process holds the lock; the message has its host, process and start time.
    """
    # filelock's fallback, a plain file, would outlive a killed process.
    lock = FileLock(run_folder / name, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout_s, poll_interval=_POLL_SECONDS)
    except Timeout:
        raise ConfigError(_locked_message(run_folder, name)) from None
    except OSError as error:
        log.warning(
            "%s: this file system has no locks (%s); make sure that no two trainings use this folder",
            run_folder / name,
            error,
        )
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
        (run_folder / name).write_text(json.dumps(holder))
        yield
    finally:
        lock.release()


def refuse_if_locked(run_folder: Path) -> None:
    """Refuse a run folder that another launcher uses.

    Raises:
        ConfigError: another launcher holds the lock.
    """
    if (run_folder / LAUNCHER).exists():
        with lock_run_folder(run_folder, LAUNCHER):
            pass


def wait_for_orphans(run_folder: Path, timeout_s: float) -> None:
    """Wait for rank 0 of a launcher that was killed: it saves a checkpoint and ends without help.

    Raises:
        ConfigError: the rank still runs after `timeout_s` seconds.
    """
    if not (run_folder / RANK_0).exists():
        return
    try:
        with lock_run_folder(run_folder, RANK_0):
            return
    except ConfigError:
        log.warning("%s: ranks of an earlier start save a checkpoint and end; waiting for them", run_folder)
    with lock_run_folder(run_folder, RANK_0, timeout_s):
        pass


def _locked_message(run_folder: Path, name: str) -> str:
    try:
        holder = json.loads((run_folder / name).read_text())
    except (OSError, ValueError):  # the file is just being written
        holder = {"pid": "?", "host": "?", "started": "?"}
    return (
        f"{run_folder}: a training already runs here: process {holder['pid']} on host {holder['host']}, since "
        f"{holder['started']}. Wait for it, or end it with SIGTERM; then this command resumes from its last checkpoint"
    )
