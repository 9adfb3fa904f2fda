"""The moving average that a checkpoint brings, fitted to the model of the present ranks."""

import pytest
import torch
from composer.core import Event
from composer.loggers import Logger
from torch import nn

from clips_pipeline.config import ConfigError
from clips_pipeline.training.callbacks.moving_average import EMA


class Wrapped(nn.Module):
    """A model wrapped as for data parallelism: its parameters are `module.clips.weight` and `module.clips.bias`."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Module()
        self.module.clips = nn.Linear(2, 1)
        self.module.clips.bias.requires_grad_(False)


class State:
    def __init__(self, model: nn.Module) -> None:
        self.model = model


def begun(state: dict[str, torch.Tensor], model: nn.Module) -> EMA:
    """Load a state and begin to train the model."""
    average = EMA(half_life="2ba", update_interval="1ba")
    tensors = {"named_parameters_dict": state, "named_buffers_dict": {}}
    average.load_state_dict({"repr": "EMA()", "ema_model": tensors, "ema_weights_active": False, "ema_started": True})
    average.apply(Event.FIT_START, State(model), Logger(State(model)))  # type: ignore[arg-type]
    return average


@pytest.mark.parametrize("saved", ["clips.weight", "module.clips.weight"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_an_average_fits_the_model_whether_it_is_wrapped_or_not(saved: str, wrapped: bool) -> None:
    model = Wrapped()
    value = torch.tensor([[3.0, 4.0]])
    average = begun({saved: value}, model if wrapped else model.module)
    assert average.ema_model is not None
    assert list(average.ema_model.named_parameters_dict) == ["module.clips.weight" if wrapped else "clips.weight"]
    assert torch.equal(average.averages()["weight"], value)
    kept = average.state_dict()["ema_model"]["named_parameters_dict"]
    assert list(kept) == ["clips.weight"]
    assert torch.equal(kept["clips.weight"], value)


@pytest.mark.parametrize(
    ("state", "found"), [({}, "absent"), ({"clips.weight": torch.zeros(1, 3)}, r"\(1, 3\), and the weight is \(1, 2\)")]
)
def test_an_average_of_another_model_is_refused(state: dict[str, torch.Tensor], found: str) -> None:
    with pytest.raises(ConfigError, match=f"train.ema: .*average of clips.weight is {found}"):
        begun(state, Wrapped())
