"""Linear layers that keep their input's source for the backward pass, and not their input.

A linear layer's backward pass needs its input, so autograd keeps it. Where that input is cheap to make (a norm, a GELU) from
something that is kept anyway, it is made again instead: the same bits, a third less memory in a block, and no matrix product
more.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def linear_of(cheap: Callable[[Tensor], Tensor], x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
    """`linear(cheap(x))`, with the same gradients.

    Args:
        cheap: a function of `x` and of parameters, without randomness, that keeps `x` for its own backward pass.
        x: what it is made from.
        linear: applied to it; may give any shape.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        # A compiler chooses by itself what to keep.
        return linear(cheap(x))

    value = cheap(x)
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        # Otherwise the layer would make and keep a narrower copy, which could not be told from its weights.
        value = value.to(torch.get_autocast_dtype(device))
    kind, place, count = value.dtype, value.data_ptr(), value.numel()

    def pack(saved: Tensor) -> Tensor | tuple[int, ...]:
        # The layer may see it through a view of two dimensions.
        mine = place != 0 and saved.data_ptr() == place and saved.numel() == count and saved.is_contiguous()
        return tuple(saved.shape) if mine else saved

    def unpack(saved: Tensor | tuple[int, ...]) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        with torch.no_grad():
            return cheap(x).to(kind).view(saved)

    with saved_tensors_hooks(pack, unpack):
        return linear(value)
