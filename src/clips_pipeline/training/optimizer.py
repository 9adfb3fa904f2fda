"""AdamW with decoupled weight decay on matmul weights only. CLIPS paper, section 4; see docs/method.md.

The update is that of the authors' optimizer: (Adam + decay * parameter) * learning rate; `torch.optim.AdamW` computes the same.
"""

from typing import Any, Protocol

import torch
from torch import nn

_MATRIX_PRODUCTS = (nn.Linear, nn.Conv2d)


class AdamConfig(Protocol):
    """The part of `training.config.OptimizerConfig` that `adamw` reads."""

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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups, with and without decay, in the order of `model.named_parameters()`, without frozen parameters."""
    decayed = decayed_names(model)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in trained if name in decayed], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trained if name not in decayed], "weight_decay": 0.0},
    ]


def adamw(model: nn.Module, config: AdamConfig) -> torch.optim.AdamW:
    """Return the optimizer of `model` at the peak learning rate, which a schedule multiplies."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.peak_lr,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
