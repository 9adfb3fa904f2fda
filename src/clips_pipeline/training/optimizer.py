"""Optimizers by name, with weight decay on matmul weights only. CLIPS paper, section 4; see docs/explanation/method.md.

AdamW's update is that of the authors' optimizer: (Adam + decay * parameter) * learning rate; `torch.optim.AdamW` computes the
same. All others are those of the package timm, which is imported where one of them is used.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import nn

from clips_pipeline.config import ConfigError

_MATRIX_PRODUCTS = (nn.Linear, nn.Conv2d)


_KEY = "train.optimizer"
_OWN_KEYS = {"lr": "peak_lr", "weight_decay": "weight_decay"}
"""Arguments of optimizers that have keys of their own below `train.optimizer`."""


class OptimizerSettings(Protocol):
    """The part of `training.config.OptimizerConfig` that is read here."""

    @property
    def name(self) -> str:
        """Name of the optimizer."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Further arguments of an optimizer of timm."""

    @property
    def peak_lr(self) -> float:
        """Peak learning rate."""

    @property
    def beta1(self) -> float:
        """Decay rate of the first moment."""

    @property
    def beta2(self) -> float:
        """Decay rate of the second moment."""

    @property
    def epsilon(self) -> float:
        """Added to the root of the second moment."""

    @property
    def weight_decay(self) -> float:
        """Decoupled weight decay of matmul weights."""


def decayed_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters that decay: the weights of linear and convolution modules.

    Biases, norms, embeddings, positions, CLS, queries and the logit scale do not decay. The type of the module decides, not the
    shape of the parameter.
    """
    return {
        f"{path}.weight" if path else "weight"
        for path, module in model.named_modules()
        if isinstance(module, _MATRIX_PRODUCTS)
    }


def hidden_names(model: nn.Module) -> set[str]:
    """Return the names of the hidden matrices: weights of linear modules inside the model, not the heads.

    Muon is made for these. Embeddings, the patch convolution (an embedding too), norms, biases, heads and scalars are none.
    """
    return {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] != "head"
    }


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups, with and without decay, in the order of `model.named_parameters()`, without frozen parameters."""
    decayed = decayed_names(model)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in trained if name in decayed], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trained if name not in decayed], "weight_decay": 0.0},
    ]


def muon_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the groups of `parameter_groups`, the first one divided: hidden matrices for Muon, and the rest for AdamW."""
    hidden, (decayed, plain) = hidden_names(model), parameter_groups(model, weight_decay)
    chosen = {id(parameter) for name, parameter in model.named_parameters() if name in hidden}
    parts = [[p for p in decayed["params"] if (id(p) in chosen) == inside] for inside in (True, False)]
    return [
        {**decayed, "params": parts[0]},
        {**decayed, "params": parts[1], "use_fallback": True},
        {**plain, "use_fallback": True},
    ]


def make_optimizer(model: nn.Module, config: OptimizerSettings) -> torch.optim.Optimizer:
    """Return the optimizer of `model` at the peak learning rate, which a schedule multiplies.

    Raises:
        ConfigError: timm has no such optimizer, or the optimizer does not take these options.
    """
    if config.name == "adamw":
        return adamw(model, config)
    make = _timm_optimizer(config)
    groups = muon_groups if _divides_matrices(config.name) else parameter_groups
    # An optimizer refuses an empty group, or makes no use of it.
    found = [group for group in groups(model, config.weight_decay) if group["params"]]
    return make(found)


def check_optimizer(config: OptimizerSettings) -> None:
    """Refuse a name or options that `make_optimizer` cannot use, by making the optimizer of one small matrix.

    Raises:
        ConfigError: as `make_optimizer`.
    """
    if config.name != "adamw":
        _timm_optimizer(config)([{"params": [nn.Parameter(torch.zeros(2, 2))], "weight_decay": config.weight_decay}])


def _divides_matrices(name: str) -> bool:
    timm = _timm_optim(name)
    return issubclass(timm.get_optimizer_info(name).opt_class, timm.Muon)


def _timm_optim(name: str) -> Any:
    """Return the module, whose types say less than what is used here."""
    try:
        return import_module("timm.optim")
    except ImportError:
        raise ConfigError(f"{_KEY}.name: {name} needs the package timm; `pip install timm`, or set adamw") from None


def _timm_optimizer(config: OptimizerSettings) -> Callable[[list[dict[str, Any]]], torch.optim.Optimizer]:
    """Return what makes the optimizer of given parameter groups."""
    timm = _timm_optim(config.name)
    infos = {name: timm.get_optimizer_info(name) for name in timm.list_optimizers()}
    # Not those of further packages, which timm knows by name only, nor those that need second derivatives.
    known = {name for name, info in infos.items() if isinstance(info.opt_class, type) and not info.second_order}
    if config.name not in known:
        names = sorted({"adamw", *known})
        close = difflib.get_close_matches(config.name, names, 1)
        meant = f"did you mean {close[0]!r}? Known" if close else "known"
        raise ConfigError(f"{_KEY}.name: {config.name!r} is unknown; {meant}: {', '.join(names)}")
    info = infos[config.name]
    takes = {
        key: value.default for key, value in inspect.signature(info.opt_class).parameters.items() if key != "params"
    }
    for option in config.options:
        if option in _OWN_KEYS:
            raise ConfigError(f"{_KEY}.options.{option}: has a key of its own; set {_KEY}.{_OWN_KEYS[option]}")
        if option not in takes:
            others = ", ".join(sorted(takes.keys() - _OWN_KEYS.keys()))
            raise ConfigError(f"{_KEY}.options.{option}: {config.name} has no such option; it has {others}")
    # The defaults of the name (`nadamw` is NAdam with decoupled decay), our keys, then what the user sets by the optimizer's names.
    ours: dict[str, Any] = {"betas": (config.beta1, config.beta2), "eps": config.epsilon}
    if info.num_betas != 2:
        del ours["betas"]
    if takes.get("momentum") == 0:
        # As timm's factory does: without momentum it is another optimizer.
        ours["momentum"] = 0.9
    arguments = {key: value for key, value in ours.items() if key in takes} | dict(config.options)
    chosen = timm.get_optimizer_class(config.name, bind_defaults=True)

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        try:
            made: torch.optim.Optimizer = chosen(groups, lr=config.peak_lr, **arguments)
        except Exception as error:
            raise ConfigError(f"{_KEY}: {config.name} cannot be made: {error}; correct {_KEY}.options") from None
        return made

    return make


def adamw(model: nn.Module, config: OptimizerSettings) -> torch.optim.AdamW:
    """Return the optimizer of `model` at the peak learning rate, which a schedule multiplies."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.peak_lr,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
