"""Composer's state as a checkpoint: the callback that saves it, and the checks before one is loaded."""

import logging
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
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
from clips_pipeline.training.resume.snapshot import snapshot

log = logging.getLogger(__name__)

_MAX_DIFFERENCES_SHOWN = 3


class CheckpointCallback(Callback):  # type: ignore[misc]
    """Saves a checkpoint at every interval and when the training ends or is stopped, and writes a `checkpoint` event.

    The content is that of Composer's `CheckpointSaver`; `checkpoint_store.save` writes it. Composer's own saver writes to the
    final name, where a kill or a full disk leaves part of a file (`tests/unit/training/test_composer_parts.py`), has no checksums
    (`tests/drills/test_damaged_checkpoints.py`), and does not delete the old files of an earlier process.

    A step waits for a copy of the state only; a thread of rank 0 hashes and writes it. At most one checkpoint is being written:
    the next one waits for it, and so does the end of the training, whatever ends it. An error of the thread is raised on every
    rank after the next step (`StopRequestMonitor`) or at the end.

    Args:
        writer: the event log on rank 0, None on other ranks.
        folder: folder of all checkpoints.
        interval: interval between checkpoints, as one of Composer's time strings: `500ba`.
        keep: number of checkpoints to keep.
        spec: text of the run spec, stored beside the state.
        code: digest of the source, stored beside the state.
        background: whether steps go on while a checkpoint is written; False needs no memory for the copy.
    """

    def __init__(
        self,
        writer: EventWriter | None,
        folder: Path,
        interval: str,
        keep: int,
        spec: str,
        code: str,
        *,
        background: bool,
    ) -> None:
        self.writer, self.folder, self.keep, self.spec, self.code = writer, folder, keep, spec, code
        self.background = background
        self.is_due = create_interval_scheduler(interval)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[dict[str, Any]] | None = None
        self._waited = 0.0
        self._failure: str | None = None

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Save if a checkpoint is due.

        Raises:
            CannotWriteError: on every rank, when rank 0 could not write this checkpoint or the one before.
        """
        if not self.is_due(state, Event.BATCH_CHECKPOINT):
            return
        started = time.perf_counter()
        self.finish()
        # Both are collective operations, so every rank calls them.
        content: dict[str, Any] = {"state": state.state_dict(), "rng": reproducibility.get_rng_state()}
        if dist.get_global_rank() == 0:
            content = snapshot(content) if self.background else content
            self._writing = self._thread.submit(self._write, int(state.timestamp.batch), content, started)
            self._waited = time.perf_counter() - started
        if not self.background:
            self.finish(started)

    def fit_end(self, state: State, logger: Logger) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            CannotWriteError: on every rank, when rank 0 could not write it.
        """
        self.finish()

    def close(self, state: State, logger: Logger) -> None:
        """Wait until the last checkpoint is written, also after an error, which then is the one that is reported."""
        self.settle()
        self._thread.shutdown()

    def has_failed(self) -> bool:
        """Return whether the thread has failed, without waiting for it."""
        if self._writing is not None and self._writing.done():
            self.settle()
        return self._failure is not None

    def settle(self, since: float | None = None) -> None:
        """Wait for the thread of this rank; write the `checkpoint` event, or keep the error for `finish`.

        Args:
            since: when the step began to wait, if it waits for the whole checkpoint.
        """
        if self._writing is None:
            return
        try:
            written = self._writing.result()
        except CannotWriteError as error:
            self._failure = str(error)
        else:
            waited = self._waited if since is None else time.perf_counter() - since
            if self.writer is not None:
                self.writer.write("checkpoint", **written, waited=round(waited, 3))
        finally:
            self._writing = None

    def finish(self, since: float | None = None) -> None:
        """Wait for the thread of rank 0. A collective operation: every rank must call it. `since` is that of `settle`.

        Raises:
            CannotWriteError: on every rank, when rank 0 could not write.
        """
        self.settle(since)
        failure = [self._failure]
        dist.broadcast_object_list(failure, src=0)
        if failure[0] is not None:
            raise CannotWriteError(failure[0])

    def _write(self, step: int, content: dict[str, Any], started: float) -> dict[str, Any]:
        """Hash and write in the thread; return the values of the event.

        Raises:
            CannotWriteError: the disk is full or failed.
        """
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
        return {"step": step, "path": str(path), "seconds": round(time.perf_counter() - started, 3)}


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
