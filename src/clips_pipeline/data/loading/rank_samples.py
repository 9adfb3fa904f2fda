"""The samples of one rank, in batches: what a loader needs of them, whoever makes the rows."""

from abc import abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from clips_pipeline.data.images.transforms import Pixels
from clips_pipeline.data.loading.batch import BatchPart, ClipsBatch, join_parts
from clips_pipeline.models.rows.layout import StepLayout


class RankSamples(IterableDataset[ClipsBatch]):
    """Iterable dataset of whole batches, any rows of which can be made alone.

    Attributes:
        layout: computes a batch's layout from its web, fragment and target ids; None leaves it to the model.
    """

    layout: Callable[[Tensor, Tensor, Tensor], StepLayout] | None

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int, int]:
        """Shape of the images of a batch of this rank."""

    @abstractmethod
    def positions(self) -> tuple[int, range]:
        """Return the epoch of the next iteration, and where in every stream its batches begin."""

    @abstractmethod
    def make_part(self, epoch: int, begin: int, rows: range, pixels_RCHW: Pixels) -> BatchPart:
        """Make some rows of this rank's part of a global batch.

        Args:
            epoch: number of the epoch.
            begin: position in every stream at which the global batch begins.
            rows: rows of this rank's part.
            pixels_RCHW: the images of these rows are written there.

        Raises:
            ConfigError: too many samples in a row cannot be used.
        """

    def __iter__(self) -> Iterator[ClipsBatch]:
        """Make all batches of the iteration in this process."""
        # Asked here, because another epoch may be selected before the last batch is requested.
        epoch, begins = self.positions()
        return (self._batch(epoch, begin) for begin in begins)

    def empty_images(self) -> Tensor:
        """Return memory for the images of a batch, in this process alone."""
        return torch.empty(self.image_shape, dtype=torch.uint8)

    def _batch(self, epoch: int, begin: int) -> ClipsBatch:
        images_BCHW = self.empty_images()
        part = self.make_part(epoch, begin, range(len(images_BCHW)), images_BCHW.numpy())
        return join_parts(images_BCHW, [part], self.layout)
