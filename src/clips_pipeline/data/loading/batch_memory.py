"""Images of the next batches, in memory that the trainer shares with its loader workers: they write, it reads, nobody copies."""

import mmap
import weakref
from collections import deque
from math import prod

import numpy as np
import torch
from torch import Tensor

from clips_pipeline.data.images.transforms import Pixels
from clips_pipeline.data.loading.anonymous_memory import AnonymousMemory


class BatchMemory:
    """Room for the images of a few batches. Each is used again when the trainer holds nothing of its last batch any more.

    Args:
        batches: number of batches.
        shape: (samples, 3, height, width).
    """

    def __init__(self, batches: int, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._memory = AnonymousMemory(batches * self._step)
        self._free = deque(range(batches))

    def take(self) -> tuple[int, Tensor] | None:
        """Return the number of a free place, and its images, uint8; None if all are in use. In the trainer.

        The place is free again when this tensor and all that share its memory are gone.
        """
        if not self._free:
            return None
        place = self._free.popleft()
        pixels = self.pixels(place)
        weakref.finalize(pixels, self._free.append, place).atexit = False
        return place, torch.from_numpy(pixels)

    def pixels(self, place: int) -> Pixels:
        """Return the images of a place, as an array. In a loader worker."""
        whole = np.frombuffer(self._memory.buffer, np.uint8, prod(self.shape), place * self._step)
        return whole.reshape(self.shape)

    @property
    def _step(self) -> int:
        return -(-prod(self.shape) // mmap.PAGESIZE) * mmap.PAGESIZE
