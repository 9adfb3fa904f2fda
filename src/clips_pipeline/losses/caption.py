"""Caption loss: cross-entropy of the synthetic caption's tokens, computed in chunks of logits.

CLIPS paper, section 3: one mean over all valid tokens of the whole batch, so long captions weigh more than short ones.

Shapes: N valid positions of this rank, R positions of a chunk, D width, V vocabulary.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from clips_pipeline.losses.gather import world_size
from clips_pipeline.losses.precision import without_autocast

# Keeps a batch without targets at 0; as published.
_EPSILON = 1.0e-8
POSITIONS_PER_CHUNK = {"cpu": 160, "cuda": 4096}
"""Default number of positions per chunk, by device. With 32,000 ids, the float32 logits of a chunk take 20 MB, which fits a
processor's cache, and 500 MB on a GPU, whose kernels need large products."""


def caption_loss(
    hidden_ND: Tensor,
    head_weight_VD: Tensor,
    targets_N: Tensor,
    *,
    chunk_size: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Compute the mean cross-entropy per token, in nats, of the logits `hidden_ND @ head_weight_VD.T` against `targets_N`.

    First derivatives only.

    Args:
        hidden_ND: normalized captioner states at the valid (not PAD) target positions of this rank; N may be 0 and may differ
            between ranks.
        head_weight_VD: weight of the vocabulary head.
        targets_N: ids to predict.
        chunk_size: positions whose logits are held at a time, 4 * chunk_size * V bytes in float32; None is that of the device in
            `POSITIONS_PER_CHUNK`. (`train.launch.chunk_size` counts samples.)
        group: ranks that share one mean over tokens; None is this process only.

    Returns:
        Scalar tensor, at least float32: sum of this rank's cross-entropies, scaled so that the mean over ranks is the loss of
        the global batch. The mean of the gradients over ranks is then the gradient of that loss. 0 if no rank has a target.

    Raises:
        ValueError: hidden rows and targets differ in number, or `chunk_size` is below 1.
    """
    if hidden_ND.shape[0] != targets_N.shape[0]:
        raise ValueError(f"{hidden_ND.shape[0]} hidden rows for {targets_N.shape[0]} targets; they must match")
    if chunk_size is None:
        chunk_size = POSITIONS_PER_CHUNK["cpu" if hidden_ND.device.type == "cpu" else "cuda"]
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; use 1 or more")
    with without_autocast(hidden_ND.device):
        dtype = torch.promote_types(torch.promote_types(hidden_ND.dtype, head_weight_VD.dtype), torch.float32)
        total: Tensor = _SummedCrossEntropy.apply(hidden_ND.to(dtype), head_weight_VD.to(dtype), targets_N, chunk_size)
        # Filled on the device: a copy from the host would wait for it.
        count = hidden_ND.new_full((), float(targets_N.shape[0]), dtype=dtype)
        ranks = world_size(group)
        if ranks > 1:
            dist.all_reduce(count, group=group)
        return total * ranks / (count + _EPSILON)


class _SummedCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies that computes its gradient in the forward pass.

    The gradient of a chunk follows from its logits, so computing both at once avoids saving or recomputing the logits. The
    backward pass keeps only the two gradients, (N, D) and (V, D).
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk_size: int) -> Tensor:
        """Return the sum, a scalar."""
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        grad_VD = torch.zeros_like(weight_VD) if wants_weight else None
        total = hidden_ND.new_zeros(())
        # All chunks share the memory of their logits.
        buffer_RV = hidden_ND.new_empty(min(chunk_size, hidden_ND.shape[0]), weight_VD.shape[0])
        for low in range(0, hidden_ND.shape[0], chunk_size):
            rows = slice(low, low + chunk_size)
            hidden_RD = hidden_ND[rows]
            logits_RV = torch.mm(hidden_RD, weight_VD.T, out=buffer_RV[: len(hidden_RD)])
            target_R1 = targets_N[rows, None]
            picked_R1 = logits_RV.gather(1, target_R1)
            # The softmax overwrites the logits: loss and gradient share one pass of exp.
            highest_R1 = logits_RV.amax(dim=1, keepdim=True)
            gradient_RV = logits_RV.sub_(highest_R1).exp_()
            sum_R1 = gradient_RV.sum(dim=1, keepdim=True)
            total += (sum_R1.log() + highest_R1 - picked_R1).sum()
            if grad_ND is None and grad_VD is None:
                continue
            # Gradient of the logits: the softmax, minus one at the target.
            gradient_RV.div_(sum_R1)
            gradient_RV.scatter_add_(1, target_R1, gradient_RV.new_full((1, 1), -1.0).expand(target_R1.shape))
            if grad_ND is not None:
                torch.mm(gradient_RV, weight_VD, out=grad_ND[rows])
            if grad_VD is not None:
                grad_VD.addmm_(gradient_RV.T, hidden_RD)
        ctx.save_for_backward(grad_ND, grad_VD)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Scale the saved gradients. Not in place: a retained graph may run the backward pass again."""
        (gradient,) = gradients
        grad_ND, grad_VD = (None if saved is None else saved * gradient for saved in ctx.saved_tensors)
        return grad_ND, grad_VD, None, None
