# ruff: noqa: N802  (fields carry shape suffixes in capitals)
"""Total loss of CLIPS: 1 * contrastive + 2 * caption (CLIPS paper, section 3).

Methods without fragments have one contrastive term, methods without a captioner no caption loss.

Shapes: B batch, N valid target positions, E embedding, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch.distributed as dist
from torch import Tensor

from clips_pipeline.losses.caption import POSITIONS_PER_CHUNK, caption_loss
from clips_pipeline.losses.contrastive import contrastive_loss


@dataclass(frozen=True)
class LossWeights:
    """Weights of the two losses in the total."""

    contrastive: float = 1.0
    caption: float = 2.0


class ModelOutput(Protocol):
    """The part of a model's output that the losses read; see `models.clips.ClipsOutput`."""

    @property
    def image_BE(self) -> Tensor:
        """Unit features of the images."""

    @property
    def web_BE(self) -> Tensor:
        """Unit features of the web captions."""

    @property
    def fragment_BE(self) -> Tensor:
        """Unit features of the fragments; width 0 if the method reads no fragment."""

    @property
    def logit_scale(self) -> Tensor:
        """Factor of the cosines, a scalar."""

    @property
    def caption_hidden_ND(self) -> Tensor:
        """Captioner state at valid positions."""

    @property
    def caption_targets_N(self) -> Tensor:
        """Ids to predict at these positions."""


class LossParts(NamedTuple):
    """Scalars in nats; only the total is weighted. The mean over ranks is the value of the joint batch.

    Losses that the method does not have are None.
    """

    total: Tensor
    contrastive: Tensor
    contrastive_web: Tensor
    contrastive_fragment: Tensor | None
    caption: Tensor | None


def clips_loss(
    output: ModelOutput,
    head_weight_VD: Tensor | None,
    weights: LossWeights | None = None,
    *,
    contrastive_chunk: int | None = None,
    caption_chunk: int = POSITIONS_PER_CHUNK,
    group: dist.ProcessGroup | None = None,
) -> LossParts:
    """Return the losses of one batch.

    Args:
        output: output of the model for this rank's samples.
        head_weight_VD: weight of the captioner's vocabulary head; None without a captioner.
        weights: weights of the losses; None is the paper's 1 and 2.
        contrastive_chunk: rows of contrastive logits held at a time; None is as many as `contrastive.MAX_LOGITS` allows.
        caption_chunk: positions whose caption logits are held at a time.
        group: ranks of one joint batch; None is this process only, even if torch.distributed is initialized.

    Raises:
        ValueError: shapes do not fit each other.
    """
    weights = LossWeights() if weights is None else weights
    has_fragment = output.fragment_BE.shape[1] > 0
    web, fragment = contrastive_loss(
        output.image_BE,
        output.web_BE,
        output.fragment_BE if has_fragment else None,
        output.logit_scale,
        chunk_rows=contrastive_chunk,
        group=group,
    )
    contrastive = (web + fragment) / 2 if has_fragment else web
    fragment_part = fragment if has_fragment else None
    if head_weight_VD is None:
        return LossParts(weights.contrastive * contrastive, contrastive, web, fragment_part, None)
    caption = caption_loss(
        output.caption_hidden_ND, head_weight_VD, output.caption_targets_N, chunk_size=caption_chunk, group=group
    )
    total = weights.contrastive * contrastive + weights.caption * caption
    return LossParts(total, contrastive, web, fragment_part, caption)
