"""FSDP2 through Composer: parameters, gradients and optimizer state sharded over the ranks, for models too large for one GPU.

Each parameter is then a `DTensor`, of which each rank holds a shard. Checkpoints and exported models are unsharded, so a run may
resume with another number of ranks, or without sharding.
"""

from collections.abc import Mapping
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils.parallelism import FSDP2Config
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from clips_pipeline.config import ConfigError
from clips_pipeline.models.blocks import COMPUTING_METHODS, Block
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.training.config import LaunchConfig

_SCALARS = ("logit_scale", "logit_bias")


def reshape_scalars(clips: ClipsModel) -> ClipsModel:
    """Give scale and bias the shape (1,), since FSDP2 refuses scalar parameters. `full_model` restores the scalars."""
    for name, parameter in list(clips.named_parameters(recurse=False)):
        if name in _SCALARS:
            setattr(clips, name, nn.Parameter(parameter.detach().reshape(1)))
    return clips


def parallelism_config(launch: LaunchConfig, clips: ClipsModel, *, uses_chunks: bool = False) -> dict[str, Any] | None:
    """Return Composer's `parallelism_config`; None is plain data parallelism.

    There is one parameter group for each transformer block, gathered while the block runs, and one for all other parameters,
    which stays gathered through the step, since the caption loss reads the head. Communication is in full precision unless
    `launch.communication` is bf16: then gradients are summed in that (weights: `communication`).

    With a batch in chunks, every block runs forward and backward many times in a step. All groups then stay gathered through
    the step (`ParameterGathering`), because FSDP2 does not gather a block again that is recomputed after its first backward
    pass. Gradients and optimizer state are sharded nevertheless.

    Args:
        launch: settings of the ranks.
        clips: the model; gets a wrapping rule.
        uses_chunks: whether a batch is processed in chunks.
    """
    if launch.sharding == "none":
        return None
    object.__setattr__(clips, "fsdp_wrap_fn", lambda module: isinstance(module, Block))
    # Composer ignores unknown keys such as `fsdp2` without a message, hence `check_sharded`. Its option
    # `load_monolith_rank0_only`, which would save memory while loading, changes the result of a resumed run.
    # Composer also takes a mapping here, which its annotation does not say.
    precision: Any = {"reduce_dtype": "bf16"} if launch.communication == "bf16" else "FULL"
    config = FSDP2Config(state_dict_type="full", mixed_precision=precision, reshard_after_forward=not uses_chunks)
    return {"fsdp": config}


def check_sharded(sharding: str, clips: nn.Module, *, uses_chunks: bool = False) -> None:
    """Check before the first step that all parameters are sharded, if `sharding` asks for it. Call it on the trainer's model.

    Raises:
        ConfigError: some parameters are not sharded.
    """
    if sharding == "none":
        return
    unsharded = [name for name, parameter in clips.named_parameters() if not isinstance(parameter, DTensor)]
    if unsharded:
        raise ConfigError(
            f"train.launch.sharding: {sharding}, but Composer has not sharded {len(unsharded)} parameters ({unsharded[0]}, …); "
            "install the locked versions, or set train.launch.sharding to none"
        )
    for module in clips.modules():
        if uses_chunks and isinstance(module, ClipsModel):
            # Only where `forward` does not call it: the inner call would release the parameters too early.
            register_fsdp_forward_method(module, "encode_all")
        # Blocks are also called by other methods than `forward`; parameters must be gathered for these too.
        if isinstance(module, Block):
            for name in COMPUTING_METHODS:
                register_fsdp_forward_method(module, name)
        elif isinstance(module, FSDPModule) and hasattr(module, "set_reshard_after_forward"):
            # The group of all other parameters. torch 2.7 lacks the method, and keeps it gathered anyway.
            module.set_reshard_after_forward(False, recurse=False)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the unsharded tensor. A collective operation: every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def full_model(clips: ClipsModel, averages: Mapping[str, Tensor] | None = None) -> ClipsModel:
    """Return the unsharded model, for evaluation and export. A collective operation: every rank must call it.

    Without sharding it shares its memory with `clips` and `averages`; with sharding every rank allocates the full model.

    Args:
        clips: the model that is trained.
        averages: tensors by name, in place of those of the model.
    """
    state = {name: full_tensor(tensor) for name, tensor in {**clips.state_dict(), **(averages or {})}.items()}
    state |= {name: state[name].reshape(()) for name in _SCALARS if name in state}
    with torch.device("meta"):
        full = ClipsModel(clips.config)
    full.load_state_dict(state, assign=True)
    for name, buffer in clips.named_buffers():
        if name not in state:
            path, _, leaf = name.rpartition(".")
            full.get_submodule(path).register_buffer(leaf, buffer, persistent=False)
    return full.train(clips.training)


class ParameterGathering(Callback):  # type: ignore[misc]
    """Keeps parameters gathered until the backward passes of a step are done; reshards them before gradients are clipped."""

    def fit_start(self, state: State, logger: Logger) -> None:
        """Switch off resharding after each backward pass."""
        for module in _sharded(state.model):
            module.set_reshard_after_backward(False, recurse=False)

    def after_backward(self, state: State, logger: Logger) -> None:
        """Reshard: the update changes the shards, and gathered parameters would be out of date."""
        for module in _sharded(state.model):
            module.reshard()


def _sharded(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
