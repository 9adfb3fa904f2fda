"""The generative loss: cross-entropy of the synthetic caption's tokens, without ever holding all logits.

CLIPS paper, section 3: one mean over all valid tokens of the whole batch, so long captions weigh more than short ones.

Shapes: N valid positions of this rank, R positions of a chunk, D width, V vocabulary.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from clips_pipeline.losses.gather import world_size

_NO_DIVISION_BY_ZERO = 1.0e-8
CHUNK = 160
"""Positions whose logits are held at once: long enough for fast products, 20 MB for 32,000 words in float32."""


def caption_loss(
    hidden_ND: Tensor,
    head_weight_VD: Tensor,
    targets_N: Tensor,
    *,
    chunk: int = CHUNK,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Cross-entropy of `hidden @ head_weight.T` with the targets, in nats per token.

    Args:
        hidden_ND: the captioner's normalised state at this rank's valid positions; N may be 0 and may differ between
            ranks.
        head_weight_VD: the vocabulary head.
        targets_N: ids to predict.
        chunk: positions whose logits are held at once, 4 * chunk * V bytes in float32.
        group: the ranks that share one mean over tokens; None is this process alone.

    Returns:
        A scalar in at least float32: this rank's sum, scaled so that its mean over ranks is the loss of the joint
        batch; the same holds for gradients that are averaged over ranks. Without any target it is 0, with gradient 0.

    Raises:
        ValueError: hidden rows and targets differ in number, or `chunk` is below 1.
    """
    if hidden_ND.shape[0] != targets_N.shape[0]:
        raise ValueError(f"{hidden_ND.shape[0]} hidden rows for {targets_N.shape[0]} targets; they must match")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; use 1 or more")
    # In at least float32, whatever precision the model ran in.
    with torch.autocast(hidden_ND.device.type, enabled=False):
        kind = torch.promote_types(torch.promote_types(hidden_ND.dtype, head_weight_VD.dtype), torch.float32)
        total: Tensor = _SummedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_ND.to(kind), head_weight_VD.to(kind), targets_N, chunk
        )
        count = torch.tensor(float(targets_N.shape[0]), dtype=kind, device=hidden_ND.device)
        ranks = world_size(group)
        if ranks > 1:
            dist.all_reduce(count, group=group)
        return total * ranks / (count + _NO_DIVISION_BY_ZERO)


class _SummedCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies whose gradient is made along the way.

    Once a chunk's logits are known their gradient is too, so making both at once saves keeping or recomputing the
    logits. Kept for the backward pass: one (N, D) and one (V, D).
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk: int) -> Tensor:
        """The sum, a scalar."""
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        grad_VD = torch.zeros_like(weight_VD) if wants_weight else None
        total = hidden_ND.new_zeros(())
        # One piece of memory for the logits of every chunk.
        room_RV = hidden_ND.new_empty(min(chunk, hidden_ND.shape[0]), weight_VD.shape[0])
        for low in range(0, hidden_ND.shape[0], chunk):
            rows = slice(low, low + chunk)
            hidden_RD = hidden_ND[rows]
            logits_RV = torch.mm(hidden_RD, weight_VD.T, out=room_RV[: len(hidden_RD)])
            target_R1 = targets_N[rows, None]
            picked_R1 = logits_RV.gather(1, target_R1)
            # The softmax comes to stand in the logits' own memory: one pass of exp serves loss and gradient.
            highest_R1 = logits_RV.amax(dim=1, keepdim=True)
            slope_RV = logits_RV.sub_(highest_R1).exp_()
            sum_R1 = slope_RV.sum(dim=1, keepdim=True)
            total += (sum_R1.log() + highest_R1 - picked_R1).sum()
            if grad_ND is None and grad_VD is None:
                continue
            # Softmax less one at the target.
            slope_RV.div_(sum_R1)
            slope_RV.scatter_add_(1, target_R1, slope_RV.new_full((1, 1), -1.0).expand(target_R1.shape))
            if grad_ND is not None:
                torch.mm(slope_RV, weight_VD, out=grad_ND[rows])
            if grad_VD is not None:
                grad_VD.addmm_(slope_RV.T, hidden_RD)
        ctx.save_for_backward(grad_ND, grad_VD)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Scale what the forward pass made. Not in its own memory: a kept graph may ask again."""
        (gradient,) = gradients
        grad_ND, grad_VD = (None if kept is None else kept * gradient for kept in ctx.saved_tensors)
        return grad_ND, grad_VD, None, None
