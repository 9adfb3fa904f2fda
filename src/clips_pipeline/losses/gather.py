"""Features of all ranks, with a gradient.

Shapes: B rows of this rank, G = B x ranks rows of all, E embedding.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """All-gather of equal parts. Backward: every rank's gradient of our rows comes back to us, summed."""

    @staticmethod
    def forward(ctx: Any, x_BE: Tensor, group: dist.ProcessGroup) -> Tensor:
        """Rows of all ranks in rank order, (G, E)."""
        ctx.group = group
        parts = [torch.empty_like(x_BE) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x_BE.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Sum over ranks, then this rank's part. (Gloo knows no reduce-scatter, so all ranks get the sum.)"""
        gradient_GE = gradients[0].contiguous().clone()
        dist.all_reduce(gradient_GE, group=ctx.group)
        parts = gradient_GE.chunk(dist.get_world_size(ctx.group))
        return parts[dist.get_rank(ctx.group)], None


def world_size(group: dist.ProcessGroup | None) -> int:
    """Number of ranks in `group`; 1 for None, which means this process alone."""
    return 1 if group is None else dist.get_world_size(group)


def rank_in(group: dist.ProcessGroup | None) -> int:
    """Rank in `group`; 0 for None."""
    return 0 if group is None else dist.get_rank(group)


def gather_rows(x_BE: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Rows (B, E) of every rank as (G, E), in rank order; all ranks must hold equally many.

    The gradient of a row sums what all ranks' losses want of it. With gradients averaged over ranks afterwards, as
    DDP does, the mean over ranks of the local losses has the gradient of the loss on the joint batch.
    """
    if world_size(group) == 1:
        return x_BE
    gathered: Tensor = _Gather.apply(x_BE, group)  # type: ignore[no-untyped-call]
    return gathered
