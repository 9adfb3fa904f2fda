"""Contrastive loss: separate symmetric InfoNCE terms, image with web caption and image with each fragment.

CLIPS paper, section 3. Each softmax has one kind of caption only: a fragment is never a negative for a web caption, nor for
another fragment of its image, even if both have the same text. Negatives come from the batches of all ranks; each rank computes
its own rows against all columns. `losses.sigmoid` is the other loss.

Shapes: B rows of this rank, K fragments, G rows of all ranks, R rows of a chunk, E embedding.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from clips_pipeline.losses.gather import gather_rows, rank_in
from clips_pipeline.losses.precision import without_autocast

MAX_LOGITS = 1 << 23
"""Logits of one softmax held at a time, 32 MiB in float32. A few copies of them exist at the same time."""


def contrastive_loss(
    image_BE: Tensor,
    web_BE: Tensor,
    fragment_BE: Tensor | None,
    logit_scale: Tensor,
    *,
    chunk_rows: int | None = None,
    group: dist.ProcessGroup | None = None,
    sent_as: torch.dtype | None = None,
) -> list[Tensor]:
    """Return InfoNCE of images with web captions, then of images with each fragment. The loss of CLIPS is their mean.

    Args:
        image_BE: unit rows.
        web_BE: unit rows; row i belongs to image i.
        fragment_BE: unit rows; row i belongs to image i. (B, K, E) for K fragments of each image, None without fragments.
        logit_scale: scalar factor of the cosines (not its logarithm).
        chunk_rows: rows of logits held at a time; they are recomputed in the backward pass. None holds all rows without
            recomputation, or if these are more than `MAX_LOGITS`, as many as that allows.
        group: ranks that share negatives, all with the same number of rows; None is this process only.
        sent_as: type in which rows and their gradients travel between ranks; None is that of the computation.

    Returns:
        The terms in nats, in at least float32, as means over this rank's rows. Their mean over ranks is the loss of the joint
        batch; the same holds for gradients averaged over ranks.

    Raises:
        ValueError: the batches differ in shape, or `chunk_rows` is below 1.
    """
    rows = [image_BE, *text_rows(web_BE, fragment_BE)]
    if not all(x.shape == image_BE.shape for x in rows):
        shapes = ", ".join(str(tuple(x.shape)) for x in rows)
        raise ValueError(f"image, web and fragment rows must match, found {shapes}")
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows is {chunk_rows}; use 1 or more, or None for all rows at once")
    with without_autocast(image_BE.device):
        local_XBE = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in rows]
        # One all-gather for all; the terms use the same gathered images.
        width = image_BE.shape[1]
        gathered_GE = torch.split(gather_rows(torch.cat(local_XBE, dim=1), group, sent_as), width, dim=1)
        first = rank_in(group) * image_BE.shape[0]
        return gathered_terms(local_XBE, gathered_GE, logit_scale, first, chunk_rows)


def text_rows(web_BE: Tensor, fragment_BE: Tensor | None) -> list[Tensor]:
    """Return the rows of each kind of text: web captions, then each fragment ((B, E), (B, K, E), or None or width 0 for none)."""
    if fragment_BE is None or fragment_BE.shape[1] == 0:
        return [web_BE]
    return [web_BE, *(fragment_BE.unbind(dim=1) if fragment_BE.dim() == 3 else (fragment_BE,))]


def gathered_terms(
    local_XBE: Sequence[Tensor], gathered_XGE: Sequence[Tensor], logit_scale: Tensor, first: int, chunk_rows: int | None
) -> list[Tensor]:
    """Return the terms, given the rows of all ranks.

    Args:
        local_XBE: image and text rows of this rank, one tensor per kind.
        gathered_XGE: the same of all ranks.
        logit_scale: as in `contrastive_loss`.
        first: index of this rank's first row among all rows.
        chunk_rows: as in `contrastive_loss`.
    """
    if chunk_rows is None and local_XBE[0].shape[0] * gathered_XGE[0].shape[0] > MAX_LOGITS:
        chunk_rows = max(1, MAX_LOGITS // gathered_XGE[0].shape[0])
    image, *texts = zip(local_XBE, gathered_XGE, strict=True)
    terms = []
    for text in texts:
        to_text = _cross_entropy(image[0] * logit_scale, text[1], first, chunk_rows)
        to_image = _cross_entropy(text[0] * logit_scale, image[1], first, chunk_rows)
        terms.append((to_text + to_image) / 2)
    return terms


def _cross_entropy(rows_BE: Tensor, columns_GE: Tensor, first: int, chunk_rows: int | None) -> Tensor:
    """Return the mean cross-entropy with column `first + i` as the target of row i."""
    rows = rows_BE.shape[0]
    target_B = torch.arange(first, first + rows, device=rows_BE.device)
    if chunk_rows is None or chunk_rows >= rows:
        return _sum_of_cross_entropies(rows_BE, columns_GE, target_B) / rows
    total = rows_BE.new_zeros(())
    for low in range(0, rows, chunk_rows):
        chunk = slice(low, low + chunk_rows)
        part: Tensor = checkpoint(
            _sum_of_cross_entropies,
            rows_BE[chunk],
            columns_GE,
            target_B[chunk],
            use_reentrant=False,
            preserve_rng_state=False,
        )
        total = total + part
    return total / rows


def _sum_of_cross_entropies(rows_RE: Tensor, columns_GE: Tensor, target_R: Tensor) -> Tensor:
    return functional.cross_entropy(rows_RE @ columns_GE.T, target_R, reduction="sum")
