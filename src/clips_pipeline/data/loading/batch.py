"""One rank's share of a global batch.

Legend of suffixes: B samples of this rank, C H W image, L places of a text tower row, T places of a target row.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClipsBatch:
    """What the model reads in one step.

    Attributes:
        images_BCHW: uint8, 0 to 255; `transforms.normalise` makes floats of them on the device.
        web_ids_BL: int64, the web captions.
        fragment_ids_BL: int64, the fragments of the synthetic captions.
        target_ids_BT: int64, the synthetic captions for the captioner.
        keys: of the samples.
        skipped: bad samples met while this batch was made, by reason; others took their places.
    """

    images_BCHW: Tensor  # noqa: N815
    web_ids_BL: Tensor  # noqa: N815
    fragment_ids_BL: Tensor  # noqa: N815
    target_ids_BT: Tensor  # noqa: N815
    keys: list[str]
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ClipsBatch":
        """The same batch with its tensors on `device`."""
        return replace(self, **{name: t.to(device, non_blocking=non_blocking) for name, t in self._tensors().items()})

    def pin_memory(self) -> "ClipsBatch":
        """The same batch in page-locked memory; torch's DataLoader calls this."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Tensor)}
