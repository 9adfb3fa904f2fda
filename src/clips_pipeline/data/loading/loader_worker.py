"""What a loader worker does: it makes its rows of each batch."""

import os
import signal
import sys
import threading
import traceback
from dataclasses import replace
from multiprocessing.queues import Queue
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from clips_pipeline.data.loading.batch import BatchPart
from clips_pipeline.data.loading.batch_memory import BatchMemory
from clips_pipeline.data.loading.rank_samples import RankSamples


class PartTask(NamedTuple):
    """Which rows of which batch to make, and where their images go.

    Attributes:
        epoch: number of the epoch.
        begin: position in every stream at which the global batch begins.
        part: number of the part.
        place: place in `BatchMemory`; None sends the images with the other rows.
    """

    epoch: int
    begin: int
    part: int
    place: int | None


class PartMaker(Dataset[BatchPart]):
    """Makes rows `part`, `part + parts`, … of a rank's batch, so that every part has rows of many streams.

    Args:
        samples: the training samples of this rank.
        memory: memory of the images.
        parts: number of parts of a batch.
    """

    def __init__(self, samples: RankSamples, memory: BatchMemory, parts: int) -> None:
        self.samples, self.memory, self.parts = samples, memory, parts

    def __getitem__(self, task: PartTask) -> BatchPart:
        rows = range(task.part, self.memory.shape[0], self.parts)
        if task.place is not None:
            pixels_RCHW = self.memory.pixels(task.place)[task.part :: self.parts]
            return self.samples.make_part(task.epoch, task.begin, rows, pixels_RCHW)
        pixels_RCHW = np.empty((len(rows), *self.memory.shape[1:]), np.uint8)
        return replace(self.samples.make_part(task.epoch, task.begin, rows, pixels_RCHW), pixels_RCHW=pixels_RCHW)


def start_worker(worker: int) -> None:
    """Prepare a process that torch has started as a loader worker."""
    _ignore_foreign_sigterm()
    # Otherwise Python drops a part that cannot be sent, and the trainer waits for it for ever.
    Queue._on_queue_feeder_error = staticmethod(_exit_on_unsent_part)  # type: ignore[attr-defined]


def _exit_on_unsent_part(error: Exception, part: object) -> None:
    """End the process, which torch then reports. Causes are a limit of memory or of threads."""
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)


def _ignore_foreign_sigterm() -> None:
    """Ignore a SIGTERM that does not come from the trainer.

    Cluster managers send SIGTERM to every process of a job. The trainer then finishes its step and saves a checkpoint,
    and needs its batches until then. (If the trainer dies, torch ends its loader workers within seconds.)
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True, name="sigterm").start()


def _exit_on_sigterm_from(trainer: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
