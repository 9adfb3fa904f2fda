"""What ranks send each other in bfloat16, with `train.launch.communication: bf16`.

Features travel in bfloat16 (`losses.gather`), and so do gradients and their sums: those of plain data parallelism by a hook of
PyTorch's, those of FSDP2 by its reduce type. Weights and optimizer state stay in float32 on every rank.
"""

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel

from clips_pipeline.models.blocks import Block
from clips_pipeline.training.config import LaunchConfig

Precision = Literal["fp32", "bf16"]

_BLOCKS = MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16, cast_forward_inputs=False)
"""Of a sharded block: without casting its inputs, since the residual stream has a precision of its own."""


def feature_dtype(communication: Precision) -> torch.dtype | None:
    """Return the type in which features travel; None is that of the losses."""
    return torch.bfloat16 if communication == "bf16" else None


def set_communication(model: nn.Module, launch: LaunchConfig, *, uses_chunks: bool) -> None:
    """Apply `train.launch.communication` to the gradients and weights of the trainer's model, before its first step.

    Sharded blocks send their weights in bfloat16 where the products would round them to it anyway, that is with amp_bf16; norms
    then have scales and biases of that precision too. With chunks they do not: a block would add up the gradients of the chunks
    in bfloat16.

    Args:
        model: the model, wrapped for its ranks.
        launch: settings of the ranks.
        uses_chunks: whether a batch is processed in chunks.
    """
    if launch.communication == "fp32":
        return
    if isinstance(model, DistributedDataParallel):
        model.register_comm_hook(dist.group.WORLD, _average_in_bf16)
    elif launch.precision == "amp_bf16" and not uses_chunks:
        send_blocks_in_bf16(model)


def send_blocks_in_bf16(model: nn.Module) -> None:
    """Let sharded blocks gather their weights and sum their gradients in bfloat16.

    PyTorch reads a policy at the first forward pass, and Composer can only give all modules the same one.
    """
    for module in model.modules():
        if isinstance(module, Block) and isinstance(module, FSDPModule):
            state = module._get_fsdp_state()
            state._mp_policy = _BLOCKS
            group = state._fsdp_param_group
            if group is None:
                raise RuntimeError(f"a sharded block without parameters: {type(module).__name__}")
            # torch 2.7 reads it of the group, later releases of each parameter.
            for holder in (group, *group.fsdp_params):
                holder.mp_policy = _BLOCKS  # type: ignore[attr-defined]


def _average_in_bf16(
    group: dist.ProcessGroup,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # PyTorch checks this annotation
) -> torch.futures.Future[Tensor]:
    """Average a bucket in bfloat16. PyTorch refuses its own hook, by its name, for backends other than NCCL."""
    return default_hooks.bf16_compress_hook(group, bucket)
