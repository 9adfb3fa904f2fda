"""Composer's state as a checkpoint: the callback that saves it, and the checks before one is loaded."""

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

_MAX_DIFFERENCES_SHOWN = 3


class CheckpointCallback(Callback):  # type: ignore[misc]
    """Saves a checkpoint at every interval and when the training ends or is stopped, and writes a `checkpoint` event.

    The content is that of Composer's `CheckpointSaver`; `checkpoint_store.save` writes it. Composer's own saver writes to the
    final name, where a kill or a full disk leaves part of a file (`tests/unit/training/test_composer_parts.py`), has no checksums
    (`tests/drills/test_damaged_checkpoints.py`), and does not delete the old files of an earlier process.

    Args:
        writer: the event log on rank 0, None on other ranks.
        folder: folder of all checkpoints.
        interval: interval between checkpoints, as one of Composer's time strings: `500ba`.
        keep: number of checkpoints to keep.
        spec: text of the run spec, stored beside the state.
        code: digest of the source, stored beside the state.
    """

    def __init__(self, writer: EventWriter | None, folder: Path, interval: str, keep: int, spec: str, code: str):
        self.writer, self.folder, self.keep, self.spec, self.code = writer, folder, keep, spec, code
        self.is_due = create_interval_scheduler(interval)

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Save if a checkpoint is due.

        Raises:
            CannotWriteError: on every rank, when rank 0 could not write.
        """
        if not self.is_due(state, Event.BATCH_CHECKPOINT):
            return
        step = int(state.timestamp.batch)
        started = time.perf_counter()
        # Both are collective operations, so every rank calls them.
        content = {"state": state.state_dict(), "rng": reproducibility.get_rng_state()}
        failure: list[str | None] = [None]
        if dist.get_global_rank() == 0:
            try:
                path = checkpoint_store.save(
                    self.folder,
                    step,
                    {
                        checkpoint_store.STATE: lambda file: torch.save(content, file),  # type: ignore[arg-type]
                        checkpoint_store.SPEC: checkpoint_store.text_writer(self.spec),
                        checkpoint_store.CODE: checkpoint_store.text_writer(self.code),
                    },
                    self.keep,
                )
                if self.writer is not None:
                    seconds = time.perf_counter() - started
                    self.writer.write("checkpoint", step=step, path=str(path), seconds=round(seconds, 3))
            except CannotWriteError as error:
                failure = [str(error)]
        dist.broadcast_object_list(failure, src=0)
        if failure[0] is not None:
            raise CannotWriteError(failure[0])


def force_weights_only_loading() -> None:
    """Make `torch.load` in this process build tensors and plain values only, whatever its caller requests.

    Composer's loader would unpickle anything. Besides plain values a checkpoint holds NumPy's random state, the duration of the
    training, and torch's version; these types are allowed here.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    array = np.zeros(1, np.uint32)
    allowed: list[Any] = [array.__reduce__()[0], np.ndarray, np.dtype, type(array.dtype), timedelta, TorchVersion]
    torch.serialization.add_safe_globals(allowed)


def find_checkpoint(folder: Path, writer: EventWriter | None) -> checkpoint_store.Checkpoint | None:
    """Return the checkpoint from which all ranks resume: rank 0 verifies checksums and broadcasts its choice.

    Raises:
        ConfigError: all checkpoints are damaged; raised on every rank.
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
    checkpoint: checkpoint_store.Checkpoint | None = answer[0]
    return checkpoint


def check_compatible(checkpoint: checkpoint_store.Checkpoint, model: nn.Module) -> None:
    """Refuse a checkpoint of another model before it is loaded. Reads names and shapes, not the weights.

    Args:
        checkpoint: a checkpoint whose checksums hold.
        model: the model as Composer gets it, without a wrapper.

    Raises:
        ConfigError: the checkpoint has other tensors, or is no checkpoint.
    """
    try:
        content = torch.load(checkpoint.state, map_location="cpu", weights_only=True, mmap=True)
        saved = {name: tuple(tensor.shape) for name, tensor in content["state"]["model"].items()}
    except Exception as error:
        raise ConfigError(
            f"{checkpoint.state}: is no checkpoint of this program ({error}); move its folder away"
        ) from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    differences = [
        f"{name} is {_shape(saved.get(name))} there and {_shape(expected.get(name))} here"
        for name in sorted(saved.keys() | expected.keys())
        if saved.get(name) != expected.get(name)
    ]
    if differences:
        hidden = len(differences) - _MAX_DIFFERENCES_SHOWN
        more = f" and {hidden} more" if hidden > 0 else ""
        raise ConfigError(
            f"{checkpoint.state}: does not fit the model: {'; '.join(differences[:_MAX_DIFFERENCES_SHOWN])}{more}. Use the "
            f"code and train.model that wrote it, or move {checkpoint.folder.parent} away to train from the beginning"
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(shape)
