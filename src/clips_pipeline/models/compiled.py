"""Transformer blocks through `torch.compile`: the compiler fuses norms, GELUs and residual sums, and chooses what to keep.

Blocks alone: they are where the time is, each is compiled once for all of its kind, and what waits for the device (packing)
stays outside. Off by default. Not measured on a GPU so far.
"""

import functools
import os
import shutil

import torch
from torch import nn

from clips_pipeline.models.blocks import Block

_METHODS = ("forward", "last", "prefix_causal")


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """From now on the blocks of `model` run compiled, at their first use; weights and their names stay.

    Args:
        model: any that holds blocks.
        backend: of `torch.compile`.

    Raises:
        RuntimeError: the backend needs a C++ compiler and there is none.
    """
    compilers = [name for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name]
    if backend == "inductor" and not any(shutil.which(name) for name in compilers):
        raise RuntimeError("torch.compile needs a C++ compiler and finds none: install g++, or set CXX to one")
    for module in model.modules():
        if type(module) is Block:
            # The class and not the methods of one block: a copy of a block then computes with its own weights.
            module.__class__ = _compiled(backend)


@functools.cache
def _compiled(backend: str) -> type[Block]:
    methods = {name: torch.compile(getattr(Block, name), backend=backend, dynamic=True) for name in _METHODS}
    return type("CompiledBlock", (Block,), methods)
