"""AdamW with decoupled decay on matrix products' weights only. CLIPS paper, section 4; see docs/method.md.

Update order as in the authors' optimiser: Adam, plus decay times parameter, times learning rate; `torch.optim.AdamW`
computes the same.
"""

from typing import Any, Protocol

import torch
from torch import nn

_MATRIX_PRODUCTS = (nn.Linear, nn.Conv2d)


class AdamConfig(Protocol):
    """What `adamw` reads of `training.config.OptimizerConfig`."""

    @property
    def peak_lr(self) -> float:
        """Highest learning rate."""

    @property
    def beta1(self) -> float:
        """Decay of the first moment."""

    @property
    def beta2(self) -> float:
        """Decay of the second moment."""

    @property
    def epsilon(self) -> float:
        """Added to the root of the second moment."""

    @property
    def weight_decay(self) -> float:
        """Decoupled decay of matmul weights."""


def decayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters that decay: weights of linear and convolution layers, told by the kind of their module.

    So biases, norms, embeddings, positions, CLS, queries and the temperature do not decay, and a new parameter does
    not by accident of its shape.
    """
    return {
        f"{path}.weight" if path else "weight"
        for path, module in model.named_modules()
        if isinstance(module, _MATRIX_PRODUCTS)
    }


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, decayed and not, in the order of `model.named_parameters()`; frozen parameters are left out."""
    decayed = decayed_names(model)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in trained if name in decayed], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trained if name not in decayed], "weight_decay": 0.0},
    ]


def adamw(model: nn.Module, config: AdamConfig) -> torch.optim.AdamW:
    """The optimiser of `model` at its peak learning rate; a schedule multiplies it."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.peak_lr,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
