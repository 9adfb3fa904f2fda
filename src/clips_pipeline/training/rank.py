"""One rank as a process, begun by `training.start`: its place in the run folder, its errors and its exit code."""

import fcntl
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.shards.storage import StorageError
from clips_pipeline.training.callbacks import TrainingDivergedError
from clips_pipeline.training.disk import CannotWriteError
from clips_pipeline.training.events import EventWriter
from clips_pipeline.training.signs import LifeSign, interval_s
from clips_pipeline.training.spec import RunSpec, load_spec
from clips_pipeline.training.worker import train

# Composer 0.32 on torch 2.7 warns about its own calls; nothing a user of this worker could change.
_COMPOSER_NOISE = ("composer", "torch.distributed", "torchmetrics", "pkg_resources")


def main(arguments: list[str]) -> int:
    """Run one rank. Returns the exit code: 0 done or stopped on request, 1 failed with an `error` event."""
    for module in _COMPOSER_NOISE:
        warnings.filterwarnings("ignore", module=rf"{module}.*")
    # torchrun has another name for it than Composer.
    os.environ.setdefault("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    spec = load_spec(Path(arguments[0]))
    rank = int(os.environ.get("RANK", "0"))
    with (
        _only_one(spec, rank),
        _life_sign(spec, rank) as life,
        EventWriter(spec.events) if rank == 0 else nullcontext() as writer,
    ):
        try:
            train(spec, writer, life)
        except Exception as error:
            traceback.print_exc()
            known = isinstance(error, ConfigError | StorageError | TrainingDivergedError | CannotWriteError)
            message = _of_loader(error) if known else f"{type(error).__name__}: {_of_loader(error)}"
            life.failed(message)
            if writer is not None:
                writer.write("error", message=message)
            return 1
    return 0


def _life_sign(spec: RunSpec, rank: int) -> LifeSign:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    return LifeSign(Path(spec.run_folder), rank, ranks, interval_s(spec.train.launch.rank_timeout_s))


def _of_loader(error: Exception) -> str:
    """The message; torch puts the traceback of a loader's process before it, which is in the worker's log anyway."""
    text = str(error)
    return text.rpartition(f"{type(error).__name__}: ")[2].strip() if text.startswith("Caught ") else text


@contextmanager
def _only_one(spec: RunSpec, rank: int) -> Iterator[None]:
    """Rank 0 holds the run folder: workers whose launcher was killed may still be training there."""
    if rank != 0:
        yield
        return
    with (Path(spec.run_folder) / "worker.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{spec.run_folder}: another worker is training here; wait for it or stop it") from None
        yield
