"""Part `equality`: a small model on the device against the same model on the CPU in float64, and the waits of the host in a step.

Limits: float32 without TF32, loss 1e-5 and gradients 1e-4 (norm of the difference, relative); bfloat16, loss 5e-3, a cosine of 0.99
or more, and at most 1.5 times the error of the padded layout in bfloat16.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.setup import Case, Inputs, bf16, device, optimizer_of, take_step
from benchmarks.plain import PlainLayout
from benchmarks.step import batches
from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.blocks import use_implementation
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.grad_cache import forward_in_chunks
from clips_pipeline.models.precision import allow_tf32
from clips_pipeline.models.rows.layout import step_layout
from clips_pipeline.models.sizes import ClipsConfig

FLOAT32 = {"loss": 1e-5, "gradients": 1e-4}
BFLOAT16 = {"loss": 5e-3, "cosine": 0.99, "of_padded": 1.5}


def measure(*, smoke: bool) -> Iterator[dict[str, Any]]:
    """Yield one line per kind of model, then the waits."""
    kinds = list(itertools.product(("attend", "mask"), ("queries", "tokens"), (None, 3)))
    # Products in bfloat16 are slow on a CPU without instructions for them.
    for padding, inputs, chunk in [kinds[0], kinds[3], kinds[4], kinds[7]] if smoke else kinds:
        yield _compare(padding, inputs, chunk, samples=4 if smoke else 8)
    yield {"host_waits_in_a_step": {padding: host_waits(padding) for padding in ("attend", "mask")}}


def _config(padding: str, reads: str) -> ClipsConfig:
    found = Case("tiny", 64, padding, 8).config()
    assert found.captioner is not None
    # Two blocks each, so that every kind of block runs; heads of 64, which the flash kernel takes.
    return dataclasses.replace(
        found,
        text=dataclasses.replace(found.text, depth=2),
        captioner=dataclasses.replace(found.captioner, inputs=reads, depth=2),
    )


def _model(config: ClipsConfig) -> ClipsModel:
    torch.manual_seed(5)
    model = ClipsModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def _gradients(total: Tensor, model: nn.Module, names: list[str]) -> Tensor:
    total.backward()  # type: ignore[no-untyped-call]
    parameters = dict(model.named_parameters())
    parts = [parameters[name].grad for name in names]
    return torch.cat([part.detach().double().cpu().flatten() for part in parts if part is not None])


def _compare(padding: str, reads: str, chunk: int | None, samples: int) -> dict[str, Any]:
    config = _config(padding, reads)
    tensors = next(batches("tiny", samples, 64))
    target = device()
    layout = step_layout(config, *tensors[1:], chunk=chunk)
    # Left out: keys' biases, whose gradient is zero in theory.
    names = [name for name, _ in _model(config).named_parameters() if not name.endswith("in_proj.bias")]

    def run(model: ClipsModel, images: Tensor) -> tuple[float, Tensor]:
        place = images.device
        use_implementation(model, "plain")
        arguments = images, *(ids.to(place) for ids in tensors[1:])
        if chunk is None:
            output = model(*arguments, layout=layout.to(place))
        else:
            output = forward_in_chunks(model, *arguments, chunk, layout=layout.to(place))
        assert model.captioner is not None
        total = clips_loss(output, model.captioner.head.weight).total
        return float(total.detach()), _gradients(total, model, names)

    exact_loss, exact = run(_model(config).double(), tensors[0].double())
    allow_tf32(False)
    loss, found = run(_model(config).to(target), tensors[0].to(target))
    errors = {"loss": abs(loss - exact_loss), "gradients": _relative(found, exact)}
    line: dict[str, Any] = {"padding": padding, "inputs": reads, "chunk": chunk, "fp32": errors}
    line["fp32_within"] = all(errors[key] <= limit for key, limit in FLOAT32.items())
    allow_tf32(True)
    try:
        with bf16():
            loss, found = run(_model(config).to(target), tensors[0].to(target))
    finally:
        allow_tf32(False)
    cosine = float(torch.nn.functional.cosine_similarity(found, exact, dim=0))
    half = {"loss": abs(loss - exact_loss), "cosine": cosine, "gradients": _relative(found, exact)}
    within = half["loss"] <= BFLOAT16["loss"] * max(1.0, abs(exact_loss)) and cosine >= BFLOAT16["cosine"]
    if padding == "attend" and reads == "queries":
        layout_of_peer = PlainLayout(config).copy_weights(_model(config)).to(target)
        with bf16():
            total = layout_of_peer(*(tensor.to(target) for tensor in tensors))
        half["padded"] = _relative(_gradients(total, layout_of_peer, names), exact)
        within = within and half["gradients"] <= BFLOAT16["of_padded"] * half["padded"]
    return line | {"bf16": half, "bf16_within": within}


def _relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def host_waits(padding: str) -> int | None:
    """Return how often the host waits for the device in a step, by torch's own count; None without a GPU."""
    if device().type != "cuda":
        return None
    case = Case("tiny", 64, padding, 8)
    config = _config(padding, "queries")
    model = _model(config).to(device())
    tensors = next(batches("tiny", 8, 64))
    layout = step_layout(config, *tensors[1:]).to(device())
    inputs = Inputs(tuple(tensor.to(device()) for tensor in tensors), layout)
    optimizer = optimizer_of(model)

    def loss_of(batch: Inputs) -> Tensor:
        output = model(*batch.tensors, layout=batch.layout)
        assert model.captioner is not None
        return clips_loss(output, model.captioner.head.weight).total

    assert case.batch == len(inputs.tensors[0])
    take_step(loss_of, optimizer, inputs)
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        take_step(loss_of, optimizer, inputs)
        torch.cuda.set_sync_debug_mode("default")
    found = [str(warning.message) for warning in seen]
    # The mode announces itself.
    return sum("synchroniz" in text and not text.startswith("Synchronization debug mode") for text in found)
