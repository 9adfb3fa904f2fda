"""The moving average of the weights: Composer's algorithm, with a state that fits any number of ranks."""

from typing import Any

from composer import algorithms
from composer.core import Event, State
from composer.loggers import Logger
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.training.sharding import full_tensor

_PARTS = ("named_parameters_dict", "named_buffers_dict")
_WRAPPER = "module."
"""Prefix of the names of a model that is wrapped for data parallelism."""


# It has the name of Composer's class, by which checkpoints name its state.
class EMA(algorithms.EMA):  # type: ignore[misc]
    """Composer's moving average, whose state does not depend on the ranks.

    Composer's own saves the names of the wrapped model, which a run with another number of ranks does not have, and then leaves
    them out without a message; and of a sharded average it saves the part of rank 0. Its `get_ema_model` overwrites the weights
    that are trained; `averages` does not.
    """

    def averages(self) -> dict[str, Tensor]:
        """Return the averages by name in `ClipsModel`; sharded where the model is."""
        found = {} if self.ema_model is None else self.ema_model.named_parameters_dict
        return {name.removeprefix(_WRAPPER).removeprefix("clips."): average for name, average in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state with unsharded averages by the names of the unwrapped model. A collective operation."""
        state: dict[str, Any] = super().state_dict()
        for part in _PARTS:
            averages = state["ema_model"][part].items()
            state["ema_model"][part] = {name.removeprefix(_WRAPPER): full_tensor(average) for name, average in averages}
        return state

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Do what Composer does; before the first step of a resumed training, fit the averages to the wrapped model.

        Raises:
            ConfigError: the checkpoint has no average of a weight, or one of another shape.
        """
        if event == Event.FIT_START and self.ema_model is not None:
            fitting = _fit(self.ema_model.named_parameters_dict, dict(state.model.named_parameters()))
            self.ema_model.named_parameters_dict = fitting
            self.ema_model.named_buffers_dict = _fit(
                self.ema_model.named_buffers_dict, dict(state.model.named_buffers())
            )
        super().apply(event, state, logger)


def _fit(averages: dict[str, Tensor], tensors: dict[str, Tensor | nn.Parameter]) -> dict[str, Tensor]:
    by_name = {name.removeprefix(_WRAPPER): average for name, average in averages.items()}
    found = {}
    for name, tensor in tensors.items():
        average = by_name.get(name.removeprefix(_WRAPPER))
        if average is None and isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
            continue
        if average is None or average.shape != tensor.shape:
            shape = "absent" if average is None else tuple(average.shape)
            raise ConfigError(
                f"train.ema: the checkpoint does not fit: the average of {name.removeprefix(_WRAPPER)} is {shape}, and the weight "
                f"is {tuple(tensor.shape)}; it may be damaged, or from an earlier version of this program; start a new training"
            )
        if isinstance(tensor, DTensor) and not isinstance(average, DTensor):
            average = distribute_tensor(average.to(tensor.device), tensor.device_mesh, tensor.placements)
        found[name] = average
    return found
