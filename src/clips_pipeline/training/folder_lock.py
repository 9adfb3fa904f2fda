"""One training per run folder: who holds it, and what the others are told. Loads no torch.

Two locks: of the process that starts the ranks and follows them, and of rank 0, which outlives a killed parent for a moment
and may have been started by somebody else. Both are the system's (`flock`), so that they end with their process.
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from clips_pipeline.config import ConfigError

log = logging.getLogger(__name__)

FOLLOWER = "launch.lock"
WORKER = "worker.lock"

_POLL_SECONDS = 0.2
# A start may meet another that is just writing its name.
_NAMELESS_SECONDS = 2.0


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
    with (run_folder / name).open("a+") as file:
        until = time.monotonic() + patience_s
        while not _taken(file):
            if time.monotonic() >= until:
                raise ConfigError(_refusal(run_folder, name))
            time.sleep(_POLL_SECONDS)
        file.truncate(0)
        who = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.write(json.dumps(who))
        file.flush()
        yield


def refuse_if_held(run_folder: Path) -> None:
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
    with (run_folder / WORKER).open("a+") as file:
        if not _taken(file):
            log.warning("%s: ranks of an earlier start save a checkpoint and end; waiting for them", run_folder)
    with hold(run_folder, WORKER, patience_s):
        pass


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning(
            "%s: this file system has no locks (%s); see to it that no two trainings run there", file.name, error
        )
    return True


def _refusal(run_folder: Path, name: str) -> str:
    until = time.monotonic() + _NAMELESS_SECONDS
    while not (text := (run_folder / name).read_text()) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    who = json.loads(text) if text else {"pid": "?", "host": "?", "started": "?"}
    return (
        f"{run_folder}: a training runs here already: process {who['pid']} on host {who['host']}, since {who['started']}. "
        "Wait for it, or end it with SIGTERM; then this command goes on from its last checkpoint"
    )
