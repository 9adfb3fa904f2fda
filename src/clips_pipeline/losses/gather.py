"""All-gather of features with a gradient.

Shapes: B rows of this rank, G = B x ranks rows of all ranks, E embedding.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """All-gather of equally many rows. The backward pass sums the gradients that all ranks have for this rank's rows."""

    @staticmethod
    def forward(ctx: Any, x_BE: Tensor, group: dist.ProcessGroup) -> Tensor:
        """Return the rows of all ranks in rank order, (G, E)."""
        ctx.group = group
        parts = [torch.empty_like(x_BE) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x_BE.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return this rank's part of the sum over ranks. (gloo has no reduce-scatter, so all ranks compute the whole sum.)"""
        gradient_GE = gradients[0].contiguous().clone()
        dist.all_reduce(gradient_GE, group=ctx.group)
        parts = gradient_GE.chunk(dist.get_world_size(ctx.group))
        return parts[dist.get_rank(ctx.group)], None


def world_size(group: dist.ProcessGroup | None) -> int:
    """Return the number of ranks in `group`; 1 for None, which is this process only."""
    return 1 if group is None else dist.get_world_size(group)


def rank_in(group: dist.ProcessGroup | None) -> int:
    """Return the rank in `group`; 0 for None."""
    return 0 if group is None else dist.get_rank(group)


def gather_rows(x_BE: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Return the rows (B, E) of all ranks as (G, E), in rank order. All ranks must have the same number of rows.

    The gradient of a row is the sum of its gradients from the losses of all ranks. If gradients are averaged over ranks
    afterwards, as DDP does, the mean of the local losses has the gradient of the loss on the joint batch.
    """
    if world_size(group) == 1:
        return x_BE
    gathered: Tensor = _Gather.apply(x_BE, group)  # type: ignore[no-untyped-call]
    return gathered
