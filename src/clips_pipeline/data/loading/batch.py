"""The part of a global batch that one rank trains on, with the layout that the model needs.

Shapes: B samples of this rank, R samples of one loader worker, C H W image, L length of a text tower row, T length of a target row.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clips_pipeline.data.images.transforms import Pixels
from clips_pipeline.models.rows.layout import StepLayout

Ids = npt.NDArray[np.int32]


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
        """Return the same batch in page-locked memory."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Tensor | StepLayout)}


@dataclass(frozen=True)
class BatchPart:
    """The rows of a batch that one loader worker makes: every W-th of W workers. As arrays, which are sent as they are.

    Attributes:
        ids: web (R, L), fragment (R, L) or (R, K, L), and target (R, T).
        keys: keys of the samples.
        skipped: number of bad samples replaced in this part, by skip reason.
        colors_R9: as in `ClipsBatch`.
        pixels_RCHW: the images, if they are not in their batch already.
    """

    ids: tuple[Ids, Ids, Ids]
    keys: list[str]
    skipped: dict[str, int]
    colors_R9: npt.NDArray[np.float32] | None = None  # noqa: N815
    pixels_RCHW: Pixels | None = None  # noqa: N815


def join_parts(
    images_BCHW: Tensor, parts: Sequence[BatchPart], layout: Callable[[Tensor, Tensor, Tensor], StepLayout] | None
) -> ClipsBatch:
    """Return the batch of all parts, in the order of their numbers.

    Args:
        images_BCHW: its images; those that come with a part are copied into it.
        parts: all of them.
        layout: computes the layout from web, fragment and target ids.
    """
    for number, part in enumerate(parts):
        if part.pixels_RCHW is not None:
            images_BCHW.numpy()[number :: len(parts)] = part.pixels_RCHW
    web, fragment, target = (_interleaved([part.ids[kind] for part in parts], np.int64) for kind in range(3))
    keys = [""] * len(images_BCHW)
    for number, part in enumerate(parts):
        keys[number :: len(parts)] = part.keys
    skipped = sum((Counter(part.skipped) for part in parts), Counter[str]())
    found = None if layout is None else layout(web, fragment, target)
    colors = [part.colors_R9 for part in parts if part.colors_R9 is not None]
    colors_B9 = _interleaved(colors, np.float32) if colors else None
    return ClipsBatch(images_BCHW, web, fragment, target, keys, dict(skipped), found, colors_B9)


def _interleaved(parts: Sequence[npt.NDArray[Any]], dtype: type[np.generic]) -> Tensor:
    joined = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), dtype)
    for number, part in enumerate(parts):
        joined[number :: len(parts)] = part
    return torch.from_numpy(joined)
