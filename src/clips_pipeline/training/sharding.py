"""Parameters, gradients and optimiser state shared out over ranks: FSDP2 through Composer, for models too large for one GPU.

What is one tensor on one process is then a `DTensor`, of which each rank holds a part. Checkpoints and exported models are
whole all the same, so a run may go on with another number of ranks, or without sharding.
"""

import inspect
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils.parallelism import FSDP2Config
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from clips_pipeline.config import ConfigError
from clips_pipeline.models.blocks import Block
from clips_pipeline.models.clips import ClipsModel


def without_scalars(clips: ClipsModel) -> ClipsModel:
    """Give the temperature the shape (1,): FSDP2 takes no parameter without a dimension. `whole` undoes it."""
    clips.logit_scale = nn.Parameter(clips.logit_scale.detach().reshape(1))
    return clips


def parallelism(sharding: str, clips: ClipsModel, *, in_chunks: bool = False) -> dict[str, Any] | None:
    """Composer's `parallelism_config`: None is plain data parallelism.

    One group of parameters for each transformer block, gathered when the block runs, and one for all the rest, which stays
    gathered through the step, since the caption loss reads the head. In full precision on the wire: what autocast lowers it
    lowers in the products, as without sharding.

    A batch in chunks runs every block forward and backward many times in a step. Then all stay gathered through the step
    (`ParameterGathering`): FSDP2 would not gather a block again that is made anew after its first backward pass. Gradients and
    optimiser state are shared out all the same.
    """
    if sharding == "none":
        return None
    object.__setattr__(clips, "fsdp_wrap_fn", lambda module: isinstance(module, Block))
    # A key that Composer does not know, `fsdp2` for one, is ignored in silence, hence `check`. And with its
    # `load_monolith_rank0_only`, which would save memory while loading, a resumed run takes another course.
    config = FSDP2Config(state_dict_type="full", mixed_precision="FULL", reshard_after_forward=not in_chunks)
    return {"fsdp": config}


def check(sharding: str, clips: nn.Module, *, in_chunks: bool = False) -> None:
    """See that parameters are shared out if they are to be, before the first step; call it on the trainer's model.

    Raises:
        ConfigError: some are not.
    """
    if sharding == "none":
        return
    left = [name for name, parameter in clips.named_parameters() if not isinstance(parameter, DTensor)]
    if left:
        raise ConfigError(
            f"train.launch.sharding is {sharding}, but {len(left)} parameters are whole on every rank ({left[0]}, …): "
            "Composer has not sharded the model. Use the locked versions, or set train.launch.sharding to none"
        )
    # These run by other methods than `forward` too; parameters must be gathered for those as well.
    methods = [name for name, _ in inspect.getmembers(Block, inspect.isfunction) if name in vars(Block)]
    for module in clips.modules():
        if in_chunks and isinstance(module, ClipsModel):
            # Only where it is not `forward` that calls it: one within the other would give the parameters away too early.
            register_fsdp_forward_method(module, "encode_all")
        if isinstance(module, Block):
            for name in methods:
                if not name.startswith("_") and name != "forward":
                    register_fsdp_forward_method(module, name)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole_model(clips: ClipsModel) -> ClipsModel:
    """The model as it is outside training: for evaluation and export. Every rank must ask.

    Without sharding it shares its memory with `clips`; with sharding it takes that of the whole model.
    """
    state = {name: whole(tensor) for name, tensor in clips.state_dict().items()}
    state["logit_scale"] = state["logit_scale"].reshape(())
    with torch.device("meta"):
        found = ClipsModel(clips.config)
    found.load_state_dict(state, assign=True)
    for name, buffer in clips.named_buffers():
        if name not in state:
            path, _, leaf = name.rpartition(".")
            found.get_submodule(path).register_buffer(leaf, buffer, persistent=False)
    return found.train(clips.training)


class ParameterGathering(Callback):  # type: ignore[misc]
    """Keeps parameters gathered until a step's backward passes are over, and shares them out before gradients are clipped."""

    def fit_start(self, state: State, logger: Logger) -> None:
        """From now on."""
        for module in _sharded(state.model):
            module.set_reshard_after_backward(False, recurse=False)

    def after_backward(self, state: State, logger: Logger) -> None:
        """Gradients are in the parts, and the update changes those; what is gathered would be out of date."""
        for module in _sharded(state.model):
            module.reshard()


def _sharded(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
