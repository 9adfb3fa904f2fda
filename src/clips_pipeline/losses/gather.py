"""All-gather of features with a gradient.

Shapes: B rows of this rank, G = B x ranks rows of all ranks, E embedding.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """All-gather of equally many rows. The backward pass is a reduce-scatter: a rank gets the sum of all ranks' gradients of its
    rows, and receives nothing else.
    """

    @staticmethod
    def forward(ctx: Any, x_BE: Tensor, group: dist.ProcessGroup, sent_as: torch.dtype) -> Tensor:
        """Return the rows of all ranks in rank order, (G, E)."""
        ctx.group, ctx.sent_as = group, sent_as
        sent_BE = x_BE.to(sent_as).contiguous()
        gathered_GE = sent_BE.new_empty((dist.get_world_size(group) * len(sent_BE), *sent_BE.shape[1:]))
        dist.all_gather_into_tensor(gathered_GE, sent_BE, group=group)
        return gathered_GE.to(x_BE.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return this rank's part of the sum over ranks."""
        (gradient_GE,) = gradients
        sent_GE = gradient_GE.to(ctx.sent_as).contiguous()
        own_BE = sent_GE.new_empty((len(sent_GE) // dist.get_world_size(ctx.group), *sent_GE.shape[1:]))
        dist.reduce_scatter_tensor(own_BE, sent_GE, group=ctx.group)
        return own_BE.to(gradient_GE.dtype), None, None


def world_size(group: dist.ProcessGroup | None) -> int:
    """Return the number of ranks in `group`; 1 for None, which is this process only."""
    return 1 if group is None else dist.get_world_size(group)


def rank_in(group: dist.ProcessGroup | None) -> int:
    """Return the rank in `group`; 0 for None."""
    return 0 if group is None else dist.get_rank(group)


def gather_rows(x_BE: Tensor, group: dist.ProcessGroup | None, sent_as: torch.dtype | None = None) -> Tensor:
    """Return the rows (B, E) of all ranks as (G, E), in rank order. All ranks must have the same number of rows.

    The gradient of a row is the sum of its gradients from the losses of all ranks. If gradients are averaged over ranks
    afterwards, as DDP does, the mean of the local losses has the gradient of the loss on the joint batch.

    Args:
        x_BE: rows of this rank.
        group: the ranks; None is this process only.
        sent_as: type in which rows and gradients travel, and in which the gradients are summed; None is their own.
    """
    if world_size(group) == 1:
        return x_BE
    gathered: Tensor = _Gather.apply(x_BE, group, sent_as or x_BE.dtype)
    return gathered
