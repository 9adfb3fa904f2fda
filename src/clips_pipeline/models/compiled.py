"""Transformer blocks compiled by `torch.compile`, which fuses norms, GELUs and residual sums, and decides what to save.

Only the blocks are compiled: they take most of the time, one compilation serves all of them, and packing, which synchronizes
with the device, stays outside. On by default on a GPU, where it has not been measured yet.

A block that runs again in the backward pass (chunks, `recompute_blocks`) must find the graph that it ran by in the forward pass:
another graph may save other tensors, which PyTorch refuses with a CheckpointError. `compile_blocks` and `start_backward_threads`
see to it.
"""

import functools
import inspect
import os
import shutil
from typing import Any

import torch
from torch import nn

from clips_pipeline.models.blocks import Block

_METHODS = ("forward", "tail")
_GRAPHS = 64
"""Most graphs of a method: of each tower, in each precision, and so on. Beyond it, PyTorch stops compiling without an error; its
default is 8."""


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
    # Otherwise a block that is compiled inside DDP's forward pass is cut where DDP's buckets of gradients end, and the same block
    # in the backward pass is not. Little is lost: the gradients of a block are ready, and sent, before those of the next.
    torch._dynamo.config.optimize_ddp = False
    # Of several graphs that fit, the oldest instead of the last one used. torch 2.7 cannot choose.
    if hasattr(torch._C._dynamo.eval_frame, "_set_lru_cache"):
        torch._C._dynamo.eval_frame._set_lru_cache(False)


def start_backward_threads() -> None:
    """Start the threads that run backward passes on GPUs, so that their number of CPU threads is that of the caller.

    Dynamo compiles again where that number differs. The threads start with the first backward pass, with the number that was set
    last in any thread: 1, by the loader's thread for page-locked memory. Call it on the rank's GPU, before the loader starts.
    """
    torch.zeros((), device="cuda", requires_grad=True).backward()  # type: ignore[no-untyped-call]


@functools.cache
def _compiled(backend: str) -> type[Block]:
    options: dict[str, Any] = {"backend": backend, "dynamic": True}
    # The setting is one of the calling thread, and backward passes run in others; torch 2.7 has only the setting.
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        options["recompile_limit"] = _GRAPHS
    else:
        torch._dynamo.config.recompile_limit = _GRAPHS
    methods = {name: torch.compile(getattr(Block, name), **options) for name in _METHODS}
    return type("CompiledBlock", (Block,), methods)
