"""One rank: its lock, heartbeat, event log, errors and exit code. `training.launch.worker_main` starts it."""

import os
import time
import traceback
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from clips_pipeline.config import ConfigError
from clips_pipeline.data.storage.files import StorageError
from clips_pipeline.io.disk_errors import CannotWriteError, DiskReserve
from clips_pipeline.io.redact import redact
from clips_pipeline.training.callbacks.divergence import TrainingDivergedError
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.launch.folder_lock import RANK_0, lock_run_folder
from clips_pipeline.training.launch.heartbeat import HeartbeatWriter, current_attempt, interval_s
from clips_pipeline.training.launch.interrupt import INTERRUPTED, PARENT, Interrupt
from clips_pipeline.training.run_spec import RunSpec
from clips_pipeline.training.trainer import train

_PERMANENT_ERRORS = (ConfigError, TrainingDivergedError, CannotWriteError)
"""Errors that would occur again: `launch.restarts` does not restart the ranks after them."""
_LOCK_TIMEOUT_S = 10.0
"""Time for rank 0 of an earlier start to end."""
_PEER_DEATH_SECONDS = 1.0
"""Time before a rank ends with an error that the death of a peer may have caused. torch reports one failed rank, of those that it
finds the one with the lowest number; it looks ten times a second, and has then found the dead one."""
# Composer 0.32 warns about its own calls; a user cannot change them.
_NOISY_MODULES = ("composer", "torch.distributed", "torchmetrics", "pkg_resources")


@record  # writes the error file that torchrun reads
def main(spec: RunSpec, restart_reason: str | None = None) -> int:
    """Run one rank.

    Args:
        spec: what to train.
        restart_reason: why the agent restarted the ranks, if it did.

    Returns:
        The exit code: 0 if the training finished or was stopped on request, else `INTERRUPTED`.

    Raises:
        Exception: what ended the training, after an `error` event; a RuntimeError with its traceback where that had to be
            redacted.
    """
    for module in _NOISY_MODULES:
        warnings.filterwarnings("ignore", module=rf"{module}.*")
    # torchrun and Composer have different names for it.
    os.environ.setdefault("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    interrupt = Interrupt()
    interrupt.install()
    try:
        # Rank 0 holds the lock of the folder for all ranks.
        lock = lock_run_folder(Path(spec.run_folder), RANK_0, _LOCK_TIMEOUT_S) if _rank() == 0 else nullcontext()
        with lock:
            return _run(spec, interrupt, restart_reason)
    finally:
        interrupt.ignore_sigterm()


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _run(spec: RunSpec, interrupt: Interrupt, restart_reason: str | None) -> int:
    rank, run_folder = _rank(), Path(spec.run_folder)
    with (
        _heartbeat(spec, rank) as heartbeat,
        DiskReserve(run_folder) if rank == 0 else nullcontext() as reserve,
        EventWriter(spec.events) if rank == 0 else nullcontext() as writer,
    ):
        try:
            if writer is not None and restart_reason is not None:
                restarts = int(os.environ["TORCHELASTIC_MAX_RESTARTS"])
                writer.write("restart", attempt=current_attempt(), of=restarts, reason=restart_reason)
            finished = train(spec, writer, heartbeat, interrupt)
        except Exception as error:
            if reserve is not None:
                reserve.free()
            message = error_message(error)
            heartbeat.report_failure(message, final_exit_code=1 if isinstance(error, _PERMANENT_ERRORS) else None)
            if writer is not None:
                with suppress(CannotWriteError):
                    writer.write("error", message=message, again=not isinstance(error, TrainingDivergedError))
            if _world_size() > 1 and not isinstance(error, _PERMANENT_ERRORS):
                time.sleep(_PEER_DEATH_SECONDS)
            # torch writes the traceback to the log and to a file.
            trace = "".join(traceback.format_exception(error))
            if redact(trace) != trace:
                raise RuntimeError(redact(trace)) from None
            raise
        if finished or interrupt.reason is None:
            return 0
        if os.environ.get(PARENT) == "1":
            heartbeat.final_exit_code = INTERRUPTED  # without our agent, torchrun may restart the ranks
        return INTERRUPTED


def _heartbeat(spec: RunSpec, rank: int) -> HeartbeatWriter:
    return HeartbeatWriter(Path(spec.run_folder), rank, _world_size(), interval_s(spec.train.launch.rank_timeout_s))


def error_message(error: Exception) -> str:
    """Return the redacted message of an error for the event log and the launcher."""
    known = isinstance(error, ConfigError | StorageError | TrainingDivergedError | CannotWriteError)
    text = redact(_without_loader_traceback(error))
    if known:
        return text
    return f"{type(error).__name__}: {text}"


def _without_loader_traceback(error: Exception) -> str:
    """Return the message without the traceback of a loader worker, which torch puts first and the rank's log has anyway."""
    text = str(error)
    return text.rpartition(f"{type(error).__name__}: ")[2].strip() if text.startswith("Caught ") else text
