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

    def kept_patches(self, batch: int, step: int, device: torch.device | str = "cpu") -> Tensor | None:
        """Return the indices (B, K) of the patches that each sample of this rank keeps, ascending; None keeps all patches."""
        if not self.config.model.patch_dropout:
            return None
        return self._draw(b"patch_dropout", self._patches(step), self._patches_kept(step), batch, step).to(
            device, non_blocking=True
        )

    def captioned_tokens(self, batch: int, step: int, device: torch.device | str = "cpu") -> Tensor | None:
        """Return the indices (B, I) of the image tokens that the captioner reads, ascending; None reads all.

        They count the tokens of the vision tower, which are fewer under patch dropout.
        """
        fraction, tokens = self.config.model.image_tokens_kept, self._patches_kept(step)
        if fraction == 1.0:
            return None
        count = max(1, round(tokens * fraction))
        return self._draw(b"image_tokens", tokens, count, batch, step).to(device, non_blocking=True)

    def _patches(self, step: int) -> int:
        return (self.size_at(step) // self.patch_size) ** 2

    def _patches_kept(self, step: int) -> int:
        dropped = self.config.model.patch_dropout
        return max(1, round(self._patches(step) * (1.0 - dropped))) if dropped else self._patches(step)

    def _draw(self, purpose: bytes, tokens: int, count: int, batch: int, step: int) -> Tensor:
        """Draw `count` of `tokens` for each sample of this rank, (B, count), ascending."""
        digest = hashlib.blake2b(f"{self.config.seed}/{step}".encode(), digest_size=8, person=purpose).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        # Noise of the whole global batch (G rows), so that a sample loses the same tokens on any rank.
        noise_GP = torch.rand(self.config.batch_size, tokens, generator=generator)
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
