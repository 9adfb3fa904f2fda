"""The part of a global batch that one rank trains on, with the layout that the model needs.

Shapes: B samples of this rank, C H W image, L length of a text tower row, T length of a target row.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from clips_pipeline.models.rows.layout import StepLayout


@dataclass(frozen=True)
class ClipsBatch:
    """Model input of one step.

    Attributes:
        images_BCHW: uint8, 0 to 255; `transforms.normalize` converts them to float32 on the device.
        web_ids_BL: int64, token ids of the web captions.
        fragment_ids_BL: int64, token ids of the fragments; (B, K, L) for K > 1 of each image.
        target_ids_BT: int64, token ids of the synthetic captions, for the captioner.
        keys: keys of the samples.
        skipped: number of bad samples replaced in this batch, by skip reason.
        layout: where the tokens of these rows are; None leaves it to the model, which then waits for the device.
        colors_B9: float32, the color changes that the device applies (`color_batch`); None if there are none left to apply.
    """

    images_BCHW: Tensor  # noqa: N815
    web_ids_BL: Tensor  # noqa: N815
    fragment_ids_BL: Tensor  # noqa: N815
    target_ids_BT: Tensor  # noqa: N815
    keys: list[str]
    skipped: dict[str, int] = field(default_factory=dict)
    layout: StepLayout | None = None
    colors_B9: Tensor | None = None  # noqa: N815

    def __len__(self) -> int:
        return len(self.keys)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ClipsBatch":
        """Return the batch itself, which nothing changes: Composer copies every batch, 87 MB of images at 4,096 samples."""
        return self

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ClipsBatch":
        """Return the same batch with its tensors on `device`."""
        return replace(self, **{name: t.to(device, non_blocking=non_blocking) for name, t in self._tensors().items()})

    def pin_memory(self) -> "ClipsBatch":
        """Return the same batch in page-locked memory; called by torch's DataLoader."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Tensor | StepLayout)}
