"""What the parts share: cases, models, batches, one optimizer step, and how it is timed."""

import gc
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.plain import PlainLayout
from benchmarks.step import batches, config_of
from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.blocks import use_implementation
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.compiled import compile_blocks
from clips_pipeline.models.grad_cache import forward_in_chunks
from clips_pipeline.models.precision import halve_stream
from clips_pipeline.models.rows.layout import StepLayout, step_layout
from clips_pipeline.models.sizes import ClipsConfig

NOMINAL = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 FLOPs per second, from NVIDIA's data sheets (SXM)."""
LARGE_CARD_GIB = 100
"""Cards with less memory get half the batch of each case; by estimate, the padded layout needs 80 GB for a full batch."""


@dataclass(frozen=True)
class Case:
    """A model, its resolution and its batch."""

    size: str
    pixels: int
    padding: str
    batch: int
    chunk: int | None = None

    @property
    def name(self) -> str:
        """Name for results, such as `l14-84-mask`, with `-chunk128` for chunks."""
        return f"{self.size}-{self.pixels}-{self.padding}" + (f"-chunk{self.chunk}" if self.chunk else "")

    def config(self) -> ClipsConfig:
        """Return the model's configuration."""
        found: ClipsConfig = config_of(self.size, self.padding, self.pixels)
        return found


CASES = (
    Case("l14", 84, "attend", 256),
    Case("l14", 84, "mask", 256),
    Case("l14", 224, "attend", 96),
    Case("b16", 112, "mask", 512),
    Case("l14", 84, "attend", 1024, chunk=256),
)
SMOKE_CASES = (Case("tiny", 64, "attend", 4), Case("tiny", 64, "mask", 4, chunk=2))


@dataclass(frozen=True)
class Inputs:
    """A batch on the device, with the layout that a loader would have sent."""

    tensors: tuple[Tensor, ...]
    layout: StepLayout


Step = Callable[[Inputs], Tensor]


def device() -> torch.device:
    """Return the GPU, or the CPU for smoke tests."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fitting(case: Case) -> Case:
    """Return the case with a batch for the memory of this card."""
    if (
        not torch.cuda.is_available()
        or torch.cuda.get_device_properties(device()).total_memory >= LARGE_CARD_GIB * 2**30
    ):
        return case
    return replace(case, batch=case.batch // 2)


def inputs_of(case: Case, count: int) -> list[Inputs]:
    """Return batches with captions as long as in Recap-DataComp."""
    target, found = device(), []
    for tensors in islice(batches(case.size, case.batch, case.pixels), count):
        layout = step_layout(case.config(), *tensors[1:], chunk=case.chunk).to(target)
        found.append(Inputs(tuple(tensor.to(target) for tensor in tensors), layout))
    return found


def ours(case: Case, *, compiled: bool, bf16_stream: bool = False) -> tuple[nn.Module, Step]:
    """Return the model, and its forward pass with the losses, by the path of a GPU."""
    with device():
        model = ClipsModel(case.config())
    use_implementation(model, "plain")
    halve_stream(model, bf16_stream)
    if compiled:
        compile_blocks(model)

    def loss(inputs: Inputs) -> Tensor:
        if case.chunk is None:
            output = model(*inputs.tensors, layout=inputs.layout)
        else:
            output = forward_in_chunks(model, *inputs.tensors, case.chunk, layout=inputs.layout)
        assert model.captioner is not None
        return clips_loss(output, model.captioner.head.weight).total

    return model, loss


def peer(case: Case, *, compiled: bool) -> tuple[nn.Module, Step]:
    """Return the published padded layout (`benchmarks.plain`), compiled as a whole or not."""
    config = case.config()
    with device():
        # First the model, so that it draws the numbers that it draws in `ours`.
        weights = ClipsModel(config)
        layout = PlainLayout(replace(config, text=replace(config.text, padding="attend"))).copy_weights(weights)
    run: Any = torch.compile(layout) if compiled else layout

    def loss(inputs: Inputs) -> Tensor:
        total: Tensor = run(*inputs.tensors)
        return total

    return layout, loss


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW as in the training."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.2, fused=True)


def bf16() -> torch.autocast:
    """Return the context of a forward pass with `amp_bf16`. TF32 is a setting of the process, for the backward pass too."""
    return torch.autocast(device().type, torch.bfloat16)


def take_step(loss_of: Step, optimizer: torch.optim.Optimizer, inputs: Inputs) -> Tensor:
    """Take one optimizer step; return its loss, still on the device."""
    with bf16():
        loss = loss_of(inputs)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free_memory() -> None:
    """Give the memory of deleted models back to the device; compiled ones are in reference cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def attempt(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of one measurement, or its error, so that the others of a part go on; its traceback goes to the log."""
    try:
        return run()
    except Exception as error:
        traceback.print_exception(error)
        return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}
    finally:
        free_memory()


def time_steps(loss_of: Step, model: nn.Module, inputs: list[Inputs], *, warm_up: int, steps: int) -> dict[str, Any]:
    """Return the first loss, seconds per step, seconds of the warm-up (with compilation) and peak memory."""
    optimizer = optimizer_of(model)
    begin = time.perf_counter()
    first = float(take_step(loss_of, optimizer, inputs[0]))
    for number in range(1, warm_up):
        take_step(loss_of, optimizer, inputs[number % len(inputs)])
    synchronize()
    warm = time.perf_counter() - begin
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    for number in range(steps):
        take_step(loss_of, optimizer, inputs[number % len(inputs)])
    synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    seconds = (time.perf_counter() - begin) / steps
    return {"first_loss": first, "seconds": seconds, "warm_up_seconds": warm, "peak_gib": peak}
