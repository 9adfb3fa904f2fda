"""How much of each picture a step sees: growing resolution and dropped patches, both functions of the step alone.

A resumed training therefore sees what an uninterrupted one would, and any number of ranks sees the same.

Shapes: B samples of this rank, C colours, H W pixels, P patches, K patches kept.
"""

import hashlib

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor
from torch.nn import functional

from clips_pipeline.training.config import TrainConfig


class ImageSchedule:
    """What the pictures of one step become.

    Args:
        config: the training.
        image_size: of the pictures that the loader gives.
        patch_size: of the model.
        rank: of this process.
    """

    def __init__(self, config: TrainConfig, image_size: int, patch_size: int, rank: int = 0) -> None:
        self.config, self.image_size, self.patch_size, self.rank = config, image_size, patch_size, rank

    def size_at(self, step: int) -> int:
        """Side in pixels of the pictures of step number `step`, counted from 0: whole patches, growing in even shares."""
        progressive = self.config.progressive
        if progressive is None:
            return self.image_size
        first, last = progressive.first_size // self.patch_size, self.image_size // self.patch_size
        grown = step / max(1.0, progressive.until * self.config.steps)
        return min(last, first + int(grown * (last - first + 1))) * self.patch_size

    def resized(self, images_BCHW: Tensor, step: int) -> Tensor:
        """The pictures at the step's resolution, antialiased."""
        size = self.size_at(step)
        if images_BCHW.shape[-1] == size:
            return images_BCHW
        resized_BCHW: Tensor = functional.interpolate(
            images_BCHW, (size, size), mode="bilinear", antialias=True, align_corners=False
        )
        return resized_BCHW

    def kept(self, batch: int, step: int) -> Tensor | None:
        """Numbers (B, K) of the patches that each sample of this rank keeps, ascending; None for all of them."""
        if not self.config.model.patch_dropout:
            return None
        patches = (self.size_at(step) // self.patch_size) ** 2
        count = max(1, round(patches * (1.0 - self.config.model.patch_dropout)))
        digest = hashlib.blake2b(f"{self.config.seed}/{step}".encode(), digest_size=8, person=b"patch_dropout").digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        # Of the whole global batch, so that a sample loses the same patches whichever rank has it.
        noise_GP = torch.rand(self.config.batch_size, patches, generator=generator)
        noise_BP = noise_GP[self.rank * batch : (self.rank + 1) * batch]
        return noise_BP.argsort(dim=1)[:, :count].sort(dim=1).values


class ImageScheduleUpdate(Algorithm):  # type: ignore[misc]
    """Tells the model the number of the step, of which its `ImageSchedule` are functions; a checkpoint restores it.

    Composer's `ProgressiveResizing` is not used: it takes the nearest pixel, whatever its documentation says, so that what is
    finer than the new grid turns into patterns (`tests/unit/training/test_composer_parts.py`).
    """

    def match(self, event: Event, state: State) -> bool:
        """Before the forward pass."""
        return event == Event.BATCH_START  # type: ignore[no-any-return]

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Tell it."""
        getattr(state.model, "module", state.model).step = int(state.timestamp.batch)
