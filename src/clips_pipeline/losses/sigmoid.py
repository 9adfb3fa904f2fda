"""Sigmoid loss (SigLIP, arXiv 2303.15343): each pair of an image and a text is a binary classification of its own.

With z_ij = scale * v_i . x_j + bias and signs s_ij = 1 on the diagonal and -1 elsewhere, over the G pairs of all ranks:

    L = -1/G * sum_ij log sigmoid(s_ij * z_ij)

No softmax couples the pairs, so no rank needs the rows of all ranks at once: the texts and their gradients travel around the ring
of the ranks, one rank further in each round. A rank holds the texts of one rank and some rows of logits at a time.

Shapes: B rows of this rank, G rows of all ranks, R rows of a chunk, E embedding.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from clips_pipeline.losses.gather import rank_in, world_size
from clips_pipeline.losses.precision import without_autocast

MAX_LOGITS = 1 << 23
"""Logits of one text kind held at a time, 32 MiB in float32. A few copies of them exist at the same time."""


def sigmoid_terms(
    image_BE: Tensor,
    texts_BE: Sequence[Tensor],
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    chunk_rows: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> list[Tensor]:
    """Return the sigmoid loss of the images with each kind of text. First derivatives only.

    Args:
        image_BE: unit rows.
        texts_BE: for each kind, unit rows; row i belongs to image i.
        logit_scale: scalar factor of the cosines (not its logarithm).
        logit_bias: scalar added to them.
        chunk_rows: rows of logits held at a time; None is as many as `MAX_LOGITS` allows.
        group: ranks of one joint batch, all with the same number of rows; None is this process only.

    Returns:
        One term per kind in nats per image, in at least float32: the sum over this rank's images and the texts of all ranks,
        divided by this rank's images. Their mean over ranks is the loss of the joint batch; the same holds for gradients averaged
        over ranks, if all ranks weigh the terms equally.

    Raises:
        ValueError: the batches differ in shape, or `chunk_rows` is below 1.
    """
    if not all(text_BE.shape == image_BE.shape for text_BE in texts_BE):
        shapes = ", ".join(str(tuple(x.shape)) for x in (image_BE, *texts_BE))
        raise ValueError(f"image and text rows must match, found {shapes}")
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows is {chunk_rows}; use 1 or more, or None for as many as fit")
    rows = image_BE.shape[0]
    chunk_rows = chunk_rows or max(1, MAX_LOGITS // max(1, rows))
    with without_autocast(image_BE.device):
        dtype = torch.promote_types(image_BE.dtype, torch.float32)
        scale, bias = logit_scale.to(dtype), logit_bias.to(dtype)
        sums: list[Tensor] = [
            _PairwiseSum.apply(image_BE.to(dtype), text_BE.to(dtype), scale, bias, chunk_rows, group)
            for text_BE in texts_BE
        ]
        return [total / rows for total in sums]


class _PairwiseSum(torch.autograd.Function):
    """Sum over local images and the texts of all ranks, which computes its gradient in the forward pass.

    The gradient follows from the logits of a chunk, so neither is saved or recomputed. The backward pass keeps the gradients of
    the rows, (B, E) each, and of both scalars. It expects the same incoming gradient on all ranks.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image_BE: Tensor,
        text_BE: Tensor,
        scale: Tensor,
        bias: Tensor,
        chunk_rows: int,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        """Return the sum, a scalar."""
        total, scale_grad, bias_grad = (image_BE.new_zeros(()) for _ in range(3))
        image_grad_BE = torch.zeros_like(image_BE)
        # The texts of one rank, and what all ranks so far have added to their gradient.
        visiting_2BE = torch.stack([text_BE, torch.zeros_like(text_BE)])
        ranks = world_size(group)
        for turn in range(ranks):
            other_BE, other_grad_BE = visiting_2BE
            for low in range(0, len(image_BE), chunk_rows):
                rows_RE = image_BE[low : low + chunk_rows]
                diagonal = low if turn == 0 else None
                loss, slope_RB = _losses_and_slopes((rows_RE @ other_BE.T).mul_(scale).add_(bias), diagonal)
                total += loss
                pulled_RE = slope_RB @ other_BE
                image_grad_BE[low : low + chunk_rows] += scale * pulled_RE
                other_grad_BE.addmm_(slope_RB.T, scale * rows_RE)
                # The sum of slope times cosine.
                scale_grad += (rows_RE * pulled_RE).sum()
                bias_grad += slope_RB.sum()
            if ranks > 1:
                # After the last turn the gradients arrive at the rank of their texts.
                visiting_2BE = _pass_on(visiting_2BE, group)
        ctx.save_for_backward(image_grad_BE, visiting_2BE[1].clone(), scale_grad, bias_grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the saved gradients. Not in place: a retained graph may run the backward pass again."""
        (gradient,) = gradients
        return (*(saved * gradient for saved in ctx.saved_tensors), None, None)


def _losses_and_slopes(logits_RB: Tensor, diagonal: int | None) -> tuple[Tensor, Tensor]:
    """Return the sum of -log sigmoid(s * z) over a chunk, and its derivative by each z.

    Args:
        logits_RB: z; overwritten.
        diagonal: column of the text that belongs to the first row; None if no text of these columns belongs to any row.
    """
    # s * z is -z except for matching pairs, so that u = -s * z is z except there.
    matching = None if diagonal is None else logits_RB.diagonal(diagonal)
    if matching is not None:
        matching.neg_()
    loss = -functional.logsigmoid(-logits_RB).sum()
    slope_RB = logits_RB.sigmoid_()
    if matching is not None:
        matching.neg_()
    return loss, slope_RB


def _pass_on(rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Send a tensor to the previous rank of the ring, and return the one of the next rank."""
    assert group is not None  # noqa: S101  (narrows the type: more than one rank)
    rank, ranks = rank_in(group), world_size(group)
    before, after = (dist.get_global_rank(group, (rank + step) % ranks) for step in (-1, 1))
    received = torch.empty_like(rows)
    sending = dist.P2POp(dist.isend, rows.contiguous(), before, group)
    receiving = dist.P2POp(dist.irecv, received, after, group)
    for request in dist.batch_isend_irecv([sending, receiving]):
        request.wait()
    return received
