"""One training per run folder: who holds it, and what the others are told. Loads no torch.

Two locks: of the process that starts the ranks and follows them, and of rank 0, which outlives a killed parent for a moment
and may have been started by somebody else. Both are the system's (`flock`), so that they end with their process.
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

FOLLOWER = "launch.lock"
WORKER = "worker.lock"

_POLL_SECONDS = 0.2


@contextmanager
def hold(run_folder: Path, name: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a lock of the run folder.

    Args:
        run_folder: it must be there.
        name: `FOLLOWER` or `WORKER`.
        patience_s: seconds to wait for another that holds it.

    Raises:
        ConfigError: another process holds it, with its host, process and start.
    """
    # A lock without the system's help would outlive a killed process.
    lock = FileLock(run_folder / name, fallback_to_soft=False)
    try:
        lock.acquire(timeout=patience_s, poll_interval=_POLL_SECONDS)
    except Timeout:
        raise ConfigError(_refusal(run_folder, name)) from None
    except OSError as error:
        log.warning(
            "%s: this file system has no locks (%s); see to it that no two trainings run there",
            run_folder / name,
            error,
        )
    try:
        who = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
        (run_folder / name).write_text(json.dumps(who))
        yield
    finally:
        lock.release()


def refuse_if_locked(run_folder: Path) -> None:
    """Refuse where a training is followed already.

    Raises:
        ConfigError: by whom.
    """
    if (run_folder / FOLLOWER).exists():
        with hold(run_folder, FOLLOWER):
            pass


def wait_for_orphans(run_folder: Path, patience_s: float) -> None:
    """Wait for a rank whose parent was killed: it saves a checkpoint and ends by itself.

    Raises:
        ConfigError: it still runs after `patience_s` seconds, or somebody else runs it.
    """
    if not (run_folder / WORKER).exists():
        return
    try:
        with hold(run_folder, WORKER):
            return
    except ConfigError:
        log.warning("%s: ranks of an earlier start save a checkpoint and end; waiting for them", run_folder)
    with hold(run_folder, WORKER, patience_s):
        pass


def _refusal(run_folder: Path, name: str) -> str:
    try:
        who = json.loads((run_folder / name).read_text())
    except (OSError, ValueError):  # it is just being written
        who = {"pid": "?", "host": "?", "started": "?"}
    return (
        f"{run_folder}: a training runs here already: process {who['pid']} on host {who['host']}, since {who['started']}. "
        "Wait for it, or end it with SIGTERM; then this command goes on from its last checkpoint"
    )
