"""The DataLoader whose workers make every batch together."""

from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from clips_pipeline.data.loading.ahead import taken_ahead
from clips_pipeline.data.loading.batch import BatchPart, ClipsBatch, join_parts
from clips_pipeline.data.loading.batch_memory import BatchMemory
from clips_pipeline.data.loading.loader_worker import PartMaker, PartTask, start_worker
from clips_pipeline.data.loading.rank_samples import RankSamples

S = TypeVar("S", bound=RankSamples)
T = TypeVar("T")


class TrainLoader(DataLoader[ClipsBatch], Generic[S]):
    """DataLoader whose workers make every batch together, so that the first one comes as early as they can make it.

    Each worker makes its rows (`PartMaker`) and writes their images where the trainer reads them. What else belongs to a row is
    sent, and joined in the trainer.

    Args:
        samples: the training samples of this rank.
        workers: number of loader workers; 0 makes batches in this process.
        prefetch_batches: batches that the workers prepare ahead.
        for_gpu: whether batches are in page-locked memory.
    """

    dataset: S

    def __init__(self, samples: S, workers: int, prefetch_batches: int, *, for_gpu: bool) -> None:
        super().__init__(samples, batch_size=None, collate_fn=_identity, pin_memory=for_gpu, generator=_generator())
        self.workers, self.prefetch_batches, self.for_gpu = workers, prefetch_batches, for_gpu

    def __iter__(self) -> Iterator[ClipsBatch]:  # type: ignore[override]  # what torch's own method returns is private
        """Start the workers of one iteration."""
        if not self.workers:
            return super().__iter__()
        batches = self._made_by_workers()
        if not self.for_gpu:
            return batches
        return taken_ahead(batches, ClipsBatch.pin_memory, partial(_start_thread, torch.cuda.current_device()))

    def _made_by_workers(self) -> Iterator[ClipsBatch]:
        samples = self.dataset
        epoch, begins = samples.positions()
        # The workers' next batches, the one that is trained on, and the one that is taken meanwhile.
        memory = BatchMemory(self.prefetch_batches + 2, samples.image_shape)
        images: deque[Tensor] = deque()

        def tasks() -> Iterator[PartTask]:
            for begin in begins:
                place, images_BCHW = memory.take() or (None, samples.empty_images())
                images.append(images_BCHW)
                del images_BCHW
                for part in range(self.workers):
                    yield PartTask(epoch, begin, part, place)

        parts = iter(
            DataLoader(
                PartMaker(samples, memory, self.workers),
                sampler=tasks(),
                batch_size=None,
                collate_fn=_identity,
                num_workers=self.workers,
                prefetch_factor=self.prefetch_batches,
                worker_init_fn=start_worker,
                # A separate one: otherwise each epoch would draw from torch's global one.
                generator=_generator(),
            )
        )

        def join(first: BatchPart) -> ClipsBatch:
            return join_parts(images.popleft(), [first, *islice(parts, self.workers - 1)], samples.layout)

        # Holds no batch that it has handed over, and ends with the first error.
        return (join(first) for first in parts)


def _identity(made: T) -> T:
    return made


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _start_thread(gpu: int) -> None:
    # As torch's own thread for page-locked memory does.
    torch.set_num_threads(1)
    torch.cuda.set_device(gpu)
