"""Composer's state to a checkpoint and back: written by `checkpoints.save`, loaded without unpickling code."""

import logging
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import create_interval_scheduler, dist, reproducibility
from torch import nn
from torch.torch_version import TorchVersion

from clips_pipeline.config import ConfigError
from clips_pipeline.io.disk_errors import CannotWriteError
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.events.progress import damaged_line
from clips_pipeline.training.resume import checkpoint_store

log = logging.getLogger(__name__)

_MOST_NAMED = 3


class CheckpointCallback(Callback):  # type: ignore[misc]
    """Saves every so often and when the training ends or is stopped, and tells it in a `checkpoint` event.

    The content is that of Composer's `CheckpointSaver`, handed to `checkpoints.save`. Composer's own writes under the final name,
    where a kill or a full disk leaves part of a file (`tests/unit/training/test_composer_parts.py`), keeps no checksums
    (`tests/drills/test_damaged_checkpoints.py`), and forgets the files of an earlier process when it deletes old ones.

    Args:
        writer: the event log on rank 0, None on other ranks.
        folder: of the checkpoints.
        interval: between two, as one of Composer's time strings: `500ba`.
        keep: how many stay.
        spec: the text of the run spec, kept beside the state, as is
        code: the digest of the source.
    """

    def __init__(self, writer: EventWriter | None, folder: Path, interval: str, keep: int, spec: str, code: str):
        self.writer, self.folder, self.keep, self.spec, self.code = writer, folder, keep, spec, code
        self.is_due = create_interval_scheduler(interval)

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Save if it is time.

        Raises:
            CannotWriteError: on every rank, when rank 0 could not write.
        """
        if not self.is_due(state, Event.BATCH_CHECKPOINT):
            return
        step = int(state.timestamp.batch)
        began = time.perf_counter()
        # Both gather over ranks, so every rank asks for them.
        content = {"state": state.state_dict(), "rng": reproducibility.get_rng_state()}
        failed: list[str | None] = [None]
        if dist.get_global_rank() == 0:
            try:
                path = checkpoint_store.save(
                    self.folder,
                    step,
                    {
                        checkpoint_store.STATE: lambda file: torch.save(content, file),  # type: ignore[arg-type]
                        checkpoint_store.SPEC: checkpoint_store.content(self.spec),
                        checkpoint_store.CODE: checkpoint_store.content(self.code),
                    },
                    self.keep,
                )
                if self.writer is not None:
                    seconds = time.perf_counter() - began
                    self.writer.write("checkpoint", step=step, path=str(path), seconds=round(seconds, 3))
            except CannotWriteError as error:
                failed = [str(error)]
        dist.broadcast_object_list(failed, src=0)
        if failed[0] is not None:
            raise CannotWriteError(failed[0])


def load_weights_only() -> None:
    """From now on `torch.load` in this process builds tensors and plain values, whatever its caller asks for.

    Composer's loader would unpickle anything. What a checkpoint holds beside plain values: NumPy's random state, how long
    the training took, and torch's version.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    array = np.zeros(1, np.uint32)
    allowed: list[Any] = [array.__reduce__()[0], np.ndarray, np.dtype, type(array.dtype), timedelta, TorchVersion]
    torch.serialization.add_safe_globals(allowed)


def find_checkpoint(folder: Path, writer: EventWriter | None) -> checkpoint_store.Checkpoint | None:
    """The checkpoint that every rank goes on from: rank 0 looks, reads its checksums, and tells the others.

    Raises:
        ConfigError: all checkpoints are damaged; on every rank.
    """
    answer: list[Any] = [None, None]
    if dist.get_global_rank() == 0:
        try:
            answer[0], damaged = checkpoint_store.latest_valid(folder)
            for one in damaged:
                instead = str(answer[0].folder) if answer[0] is not None else None
                log.warning("%s", damaged_line(str(one.moved_to), one.reason, instead))
                if writer is not None:
                    writer.write("damaged", path=str(one.moved_to), reason=one.reason, instead=instead)
        except ConfigError as error:
            answer[1] = str(error)
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise ConfigError(answer[1])
    found: checkpoint_store.Checkpoint | None = answer[0]
    return found


def check_compatible(checkpoint: checkpoint_store.Checkpoint, model: nn.Module) -> None:
    """Refuse a checkpoint of another model before anything is loaded. Reads names and shapes, not the weights.

    Args:
        checkpoint: with whole files.
        model: as it was given to Composer, in no wrapper.

    Raises:
        ConfigError: it holds other tensors, or is no checkpoint.
    """
    try:
        content = torch.load(checkpoint.state, map_location="cpu", weights_only=True, mmap=True)
        saved = {name: tuple(tensor.shape) for name, tensor in content["state"]["model"].items()}
    except Exception as error:
        raise ConfigError(
            f"{checkpoint.state}: is no checkpoint of this program ({error}); move its folder away"
        ) from None
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    differences = [
        f"{name} is {_shape(saved.get(name))} there and {_shape(wanted.get(name))} here"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
    if differences:
        more = f" and {len(differences) - _MOST_NAMED} more" if len(differences) > _MOST_NAMED else ""
        raise ConfigError(
            f"{checkpoint.state}: does not fit the model: {'; '.join(differences[:_MOST_NAMED])}{more}. Use the code and "
            f"train.model that made it, or move {checkpoint.folder.parent} away to train anew"
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(shape)
