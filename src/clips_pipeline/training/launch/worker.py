"""One rank as a process, begun by `training.launch.worker_main`: its place in the run folder, its errors and its exit code."""

import os
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from clips_pipeline.config import ConfigError
from clips_pipeline.data.storage.files import StorageError
from clips_pipeline.io.disk_errors import CannotWriteError, DiskReserve
from clips_pipeline.training.callbacks.divergence import TrainingDivergedError
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.launch.folder_lock import WORKER, hold
from clips_pipeline.training.launch.heartbeat import HeartbeatWriter, attempt, interval_s
from clips_pipeline.training.launch.interrupt import INTERRUPTED, PARENT, Interrupt
from clips_pipeline.training.run_spec import RunSpec
from clips_pipeline.training.trainer import train

_COMES_AGAIN = (ConfigError, TrainingDivergedError, CannotWriteError)
"""Errors after which `launch.restarts` does not start the ranks again."""
# Composer 0.32 on torch 2.7 warns about its own calls; nothing a user of this worker could change.
_PATIENCE_S = 10.0
_COMPOSER_NOISE = ("composer", "torch.distributed", "torchmetrics", "pkg_resources")


@record  # torchrun reads the error file that it writes
def main(spec: RunSpec, restart_reason: str | None = None) -> int:
    """Run one rank.

    Args:
        spec: what to train.
        restart_reason: why the launcher started it again, if it did.

    Returns:
        the exit code: 0 done or stopped on request, or `INTERRUPTED`.

    Raises:
        Exception: whatever ended it, after an `error` event.
    """
    for module in _COMPOSER_NOISE:
        warnings.filterwarnings("ignore", module=rf"{module}.*")
    # torchrun has another name for it than Composer.
    os.environ.setdefault("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    interrupt = Interrupt()
    interrupt.listen()
    try:
        # Rank 0 holds the folder for all. The ranks of an earlier start may need a moment to end.
        place = hold(Path(spec.run_folder), WORKER, _PATIENCE_S) if _rank() == 0 else nullcontext()
        with place:
            return _run(spec, interrupt, restart_reason)
    finally:
        interrupt.over()


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _run(spec: RunSpec, interrupt: Interrupt, restart_reason: str | None) -> int:
    rank, run_folder = _rank(), Path(spec.run_folder)
    with (
        _life_sign(spec, rank) as life,
        DiskReserve(run_folder) if rank == 0 else nullcontext() as reserve,
        EventWriter(spec.events) if rank == 0 else nullcontext() as writer,
    ):
        try:
            if writer is not None and restart_reason is not None:
                writer.write(
                    "restart", attempt=attempt(), of=int(os.environ["TORCHELASTIC_MAX_RESTARTS"]), reason=restart_reason
                )
            finished = train(spec, writer, life, interrupt)
        except Exception as error:
            if reserve is not None:
                reserve.free()
            message, again = told(error), not isinstance(error, TrainingDivergedError)
            life.failed(message, final=1 if isinstance(error, _COMES_AGAIN) else None)
            if writer is not None:
                with suppress(CannotWriteError):
                    writer.write("error", message=message, again=again)
            raise
        if finished or interrupt.reason is None:
            return 0
        if os.environ.get(PARENT) == "1":
            life.final = INTERRUPTED  # for the launcher of this machine; elsewhere torchrun may go on
        return INTERRUPTED


def _life_sign(spec: RunSpec, rank: int) -> HeartbeatWriter:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    return HeartbeatWriter(Path(spec.run_folder), rank, ranks, interval_s(spec.train.launch.rank_timeout_s))


def told(error: Exception) -> str:
    """What the event log and the follower say of it."""
    if isinstance(error, ConnectionError | EOFError):
        # A loader's process that is killed while it hands over a batch; killed at another moment, torch notices and says so.
        return (
            "DataLoader worker ended while it handed over a batch, as when the system kills it for want of memory "
            f"({type(error).__name__}: {error})"
        )
    known = isinstance(error, ConfigError | StorageError | TrainingDivergedError | CannotWriteError)
    return _of_loader(error) if known else f"{type(error).__name__}: {_of_loader(error)}"


def _of_loader(error: Exception) -> str:
    """The message; torch puts the traceback of a loader's process before it, which is in the worker's log anyway."""
    text = str(error)
    return text.rpartition(f"{type(error).__name__}: ")[2].strip() if text.startswith("Caught ") else text
