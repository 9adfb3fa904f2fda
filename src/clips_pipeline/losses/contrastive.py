"""Contrastive loss: two separate symmetric InfoNCE terms, image with web caption and image with fragment.

CLIPS paper, section 3. Each softmax has one kind of caption only: a fragment is never a negative for a web caption. Negatives
come from the batches of all ranks; each rank computes its own rows against all columns.

Shapes: B rows of this rank, G rows of all ranks, R rows of a chunk, E embedding.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from clips_pipeline.losses.gather import gather_rows, rank_in

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
) -> tuple[Tensor, Tensor]:
    """Return InfoNCE of images with web captions, and of images with fragments. The loss of CLIPS is the mean of both.

    Args:
        image_BE: unit rows.
        web_BE: unit rows; row i belongs to image i.
        fragment_BE: unit rows; row i belongs to image i. None without fragments; both terms are then that of the web captions.
        logit_scale: scalar factor of the cosines (not its logarithm).
        chunk_rows: rows of logits held at a time; they are recomputed in the backward pass. None holds all rows without
            recomputation, or if these are more than `MAX_LOGITS`, as many as that allows.
        group: ranks that share negatives, all with the same number of rows; None is this process only.

    Returns:
        Both terms in nats, in at least float32, as means over this rank's rows. Their mean over ranks is the loss of the joint
        batch; the same holds for gradients averaged over ranks.

    Raises:
        ValueError: the three batches differ in shape, or `chunk_rows` is below 1.
    """
    rows = [image_BE, web_BE] if fragment_BE is None else [image_BE, web_BE, fragment_BE]
    if not all(x.shape == image_BE.shape for x in rows):
        shapes = ", ".join(str(tuple(x.shape)) for x in rows)
        raise ValueError(f"image, web and fragment rows must match, found {shapes}")
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows is {chunk_rows}; use 1 or more, or None for all rows at once")
    # In at least float32, whatever the precision of the model.
    with torch.autocast(image_BE.device.type, enabled=False):
        local_3BE = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in rows]
        # One all-gather instead of three; both terms use the same gathered images.
        width = image_BE.shape[1]
        gathered_GE = torch.split(gather_rows(torch.cat(local_3BE, dim=1), group), width, dim=1)
        first = rank_in(group) * image_BE.shape[0]
        return gathered_terms(local_3BE, gathered_GE, logit_scale, first, chunk_rows)


def gathered_terms(
    local_3BE: Sequence[Tensor], gathered_3GE: Sequence[Tensor], logit_scale: Tensor, first: int, chunk_rows: int | None
) -> tuple[Tensor, Tensor]:
    """Return both terms, given the rows of all ranks.

    Args:
        local_3BE: image, web and (if there are any) fragment rows of this rank.
        gathered_3GE: the same of all ranks.
        logit_scale: as in `contrastive_loss`.
        first: index of this rank's first row among all rows.
        chunk_rows: as in `contrastive_loss`.
    """
    if chunk_rows is None and local_3BE[0].shape[0] * gathered_3GE[0].shape[0] > MAX_LOGITS:
        chunk_rows = max(1, MAX_LOGITS // gathered_3GE[0].shape[0])
    image, *texts = zip(local_3BE, gathered_3GE, strict=True)
    terms = []
    for text in texts:
        to_text = _cross_entropy(image[0] * logit_scale, text[1], first, chunk_rows)
        to_image = _cross_entropy(text[0] * logit_scale, image[1], first, chunk_rows)
        terms.append((to_text + to_image) / 2)
    return terms[0], terms[-1]


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
