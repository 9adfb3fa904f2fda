# ruff: noqa: N802  (fields carry shape suffixes in capitals)
"""Total loss of CLIPS: 1 * contrastive + 2 * caption (CLIPS paper, section 3).

The contrastive loss is the mean over the texts of an image, of InfoNCE or of the sigmoid loss. Methods without fragments have one
text, methods without a text tower none and hence no contrastive loss, methods without a captioner no caption loss.

Shapes: B batch, K fragments, N valid target positions, E embedding, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from clips_pipeline.losses.caption import caption_loss
from clips_pipeline.losses.contrastive import contrastive_loss, text_rows
from clips_pipeline.losses.sigmoid import sigmoid_terms


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
        """Unit features of the web captions; width 0 without a text tower."""

    @property
    def fragment_BE(self) -> Tensor:
        """Unit features of the fragments, (B, K, E) for more than one; width 0 if the method reads no fragment."""

    @property
    def logit_scale(self) -> Tensor:
        """Factor of the cosines, a scalar."""

    @property
    def logit_bias(self) -> Tensor | None:
        """Bias of the sigmoid loss, a scalar; None for the softmax."""

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
    contrastive: Tensor | None
    contrastive_web: Tensor | None
    contrastive_fragment: Tensor | None
    caption: Tensor | None


def clips_loss(
    output: ModelOutput,
    head_weight_VD: Tensor | None,
    weights: LossWeights | None = None,
    *,
    contrastive_chunk: int | None = None,
    caption_chunk: int | None = None,
    group: dist.ProcessGroup | None = None,
    sent_as: torch.dtype | None = None,
) -> LossParts:
    """Return the losses of one batch.

    Args:
        output: output of the model for this rank's samples.
        head_weight_VD: weight of the captioner's vocabulary head; None without a captioner.
        weights: weights of the losses; None is the paper's 1 and 2.
        contrastive_chunk: rows of contrastive logits held at a time; None is as many as `contrastive.MAX_LOGITS` allows.
        caption_chunk: positions whose caption logits are held at a time; None is as many as fit the device.
        group: ranks of one joint batch; None is this process only, even if torch.distributed is initialized.
        sent_as: type in which features and their gradients travel between ranks, as in `contrastive_loss`. The sigmoid loss, which
            sums gradients on their way, ignores it.

    Raises:
        ValueError: shapes do not fit each other.
    """
    weights = LossWeights() if weights is None else weights
    caption = None
    if head_weight_VD is not None:
        caption = caption_loss(
            output.caption_hidden_ND, head_weight_VD, output.caption_targets_N, chunk_size=caption_chunk, group=group
        )
    if output.web_BE.shape[1] == 0:
        if caption is None:
            raise ValueError("the model has neither a text tower nor a captioner, so there is no loss")
        return LossParts(weights.caption * caption, None, None, None, caption)
    web, *fragments = _contrastive_terms(output, contrastive_chunk, group, sent_as)
    summed = sum(fragments[1:], fragments[0]) if fragments else None
    contrastive = web if summed is None else (web + summed) / (1 + len(fragments))
    fragment = None if summed is None else summed / len(fragments)
    total = weights.contrastive * contrastive
    if caption is not None:
        total = total + weights.caption * caption
    return LossParts(total, contrastive, web, fragment, caption)


def _contrastive_terms(
    output: ModelOutput, chunk_rows: int | None, group: dist.ProcessGroup | None, sent_as: torch.dtype | None
) -> list[Tensor]:
    """Return one term per text of an image: that of the web caption, then those of the fragments."""
    image_BE, web_BE, fragment_BE, scale = output.image_BE, output.web_BE, output.fragment_BE, output.logit_scale
    if output.logit_bias is None:
        return contrastive_loss(
            image_BE, web_BE, fragment_BE, scale, chunk_rows=chunk_rows, group=group, sent_as=sent_as
        )
    texts = text_rows(web_BE, fragment_BE)
    return sigmoid_terms(image_BE, texts, scale, output.logit_bias, chunk_rows=chunk_rows, group=group)
