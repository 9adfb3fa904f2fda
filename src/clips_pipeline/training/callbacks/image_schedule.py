"""Image resolution and patch dropout of each step, both functions of the step number alone.

A resumed training therefore sees the same images as an uninterrupted one, and the number of ranks makes no difference.

Shapes: B samples of this rank, C colors, H W pixels, P patches, K patches kept.
"""

import hashlib

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor
from torch.nn import functional

from clips_pipeline.training.config import TrainConfig


class ImageSchedule:
    """Progressive resolution and patch dropout.

    Args:
        config: the training.
        image_size: side in pixels of the loader's images.
        patch_size: side in pixels of a patch of the model.
        rank: rank of this process.
    """

    def __init__(self, config: TrainConfig, image_size: int, patch_size: int, rank: int = 0) -> None:
        self.config, self.image_size, self.patch_size, self.rank = config, image_size, patch_size, rank

    def size_at(self, step: int) -> int:
        """Return the image side in pixels at `step` (from 0): it grows by whole patches, at equal intervals."""
        progressive = self.config.progressive
        if progressive is None:
            return self.image_size
        first, last = progressive.first_size // self.patch_size, self.image_size // self.patch_size
        progress = step / max(1.0, progressive.until * self.config.steps)
        return min(last, first + int(progress * (last - first + 1))) * self.patch_size

    def resize(self, images_BCHW: Tensor, step: int) -> Tensor:
        """Return the images at the resolution of `step`, antialiased."""
        size = self.size_at(step)
        if images_BCHW.shape[-1] == size:
            return images_BCHW
        resized_BCHW: Tensor = functional.interpolate(
            images_BCHW, (size, size), mode="bilinear", antialias=True, align_corners=False
        )
        return resized_BCHW

    def kept_patches(self, batch: int, step: int) -> Tensor | None:
        """Return the indices (B, K) of the patches that each sample of this rank keeps, ascending; None keeps all patches."""
        if not self.config.model.patch_dropout:
            return None
        patches = (self.size_at(step) // self.patch_size) ** 2
        count = max(1, round(patches * (1.0 - self.config.model.patch_dropout)))
        digest = hashlib.blake2b(f"{self.config.seed}/{step}".encode(), digest_size=8, person=b"patch_dropout").digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        # Noise of the whole global batch (G rows), so that a sample loses the same patches on any rank.
        noise_GP = torch.rand(self.config.batch_size, patches, generator=generator)
        noise_BP = noise_GP[self.rank * batch : (self.rank + 1) * batch]
        return noise_BP.argsort(dim=1)[:, :count].sort(dim=1).values


class ImageScheduleUpdate(Algorithm):  # type: ignore[misc]
    """Passes the step number, which a checkpoint restores, to the model for its `ImageSchedule`.

    Composer's `ProgressiveResizing` is not used: it samples the nearest pixel, in spite of its documentation, so details finer
    than the new grid turn into patterns (`tests/unit/training/test_composer_parts.py`).
    """

    def match(self, event: Event, state: State) -> bool:
        """Run before the forward pass."""
        return event == Event.BATCH_START  # type: ignore[no-any-return]

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Set the step number of the model."""
        getattr(state.model, "module", state.model).step = int(state.timestamp.batch)
