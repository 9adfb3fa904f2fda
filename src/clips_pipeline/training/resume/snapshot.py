"""A copy of a training's state in CPU memory, which a thread can write while the training goes on."""

import copy
from collections.abc import Iterator, Mapping
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


def snapshot(state: T) -> T:
    """Return a copy that shares nothing with `state`: tensors are copied to the CPU, everything else is deep-copied.

    The memory is that of all tensors once more.

    Args:
        state: nested mappings, lists and tuples of tensors and plain values.
    """
    # `deepcopy` takes what it finds here as the copy of an object. It alone would copy tensors of a GPU to the GPU.
    copies: dict[int, object] = {id(tensor): tensor.detach().to("cpu", copy=True) for tensor in _tensors(state)}
    return copy.deepcopy(state, copies)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
