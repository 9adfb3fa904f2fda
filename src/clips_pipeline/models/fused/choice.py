"""When a block runs in the fused functions: on a CPU, for more than a few tokens, if nothing hangs on its modules."""

import torch
from torch import Tensor, nn

FEW_ROWS = 200
"""Up to this many rows, inference is faster by PyTorch's own layers: calling the fused ones costs more than they save."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def takes(x: Tensor) -> bool:
    """Return whether tokens like these are for the fused functions."""
    # A compiler fuses by itself, and decides what to save.
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    return torch.is_grad_enabled() or x.numel() > FEW_ROWS * x.shape[-1]


def is_untouched(module: nn.Module, built_as: type[nn.Module]) -> bool:
    """Return whether a module has the type it was built with and no hooks.

    The fused functions read weights and call no module. A hook would not run, and an adapter in place of a linear layer would be
    left out.
    """
    return type(module) is built_as and not any(getattr(module, name) for name in _HOOKS)
