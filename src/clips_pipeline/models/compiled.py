"""Transformer blocks compiled by `torch.compile`, which fuses norms, GELUs and residual sums, and decides what to save.

Only the blocks are compiled: they take most of the time, one compilation serves all of them, and packing, which synchronizes
with the device, stays outside. Off by default. Not measured on a GPU yet.
"""

import functools
import os
import shutil

import torch
from torch import nn

from clips_pipeline.models.blocks import Block

_METHODS = ("forward", "tail")


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Compile the blocks of `model` in place, at their first use. Weights and their names stay.

    Args:
        model: a model with blocks.
        backend: backend of `torch.compile`.

    Raises:
        RuntimeError: the backend needs a C++ compiler and there is none.
    """
    compilers = [name for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name]
    if backend == "inductor" and not any(shutil.which(name) for name in compilers):
        raise RuntimeError("torch.compile needs a C++ compiler and finds none: install g++, or set CXX to one")
    for module in model.modules():
        if type(module) is Block:
            # The class is replaced, not the methods of an instance, so that a copy of a block uses its own weights.
            module.__class__ = _compiled(backend)


@functools.cache
def _compiled(backend: str) -> type[Block]:
    methods = {name: torch.compile(getattr(Block, name), backend=backend, dynamic=True) for name in _METHODS}
    return type("CompiledBlock", (Block,), methods)
