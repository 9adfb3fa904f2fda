"""Part `profile`: milliseconds and launches of one step by kind of kernel, and the share of time in which the device is idle."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from benchmarks.gpu.setup import (
    CASES,
    SMOKE_CASES,
    Case,
    attempt,
    device,
    fitting,
    inputs_of,
    optimizer_of,
    ours,
    synchronize,
    take_step,
)

_KINDS = (
    ("optimizer", ("adam", "multi_tensor", "foreach")),
    ("attention", ("flash", "fmha", "attention", "mha")),
    ("matrix product", ("gemm", "cutlass", "cublas", "nvjet", "mm", "addmm", "linear")),
    ("norm", ("layer_norm", "layernorm", "rms")),
    ("reduce", ("reduce", "softmax", "sum", "norm")),
    ("index", ("index", "gather", "scatter", "embedding")),
    (
        "elementwise and copy",
        ("elementwise", "copy", "memcpy", "memset", "triton", "fill", "add", "mul", "gelu", "cat"),
    ),
)


def kind_of(name: str) -> str:
    """Return the kind of a kernel by its name."""
    lower = name.lower()
    if lower.startswith("triton_"):
        # Named after the operations that the kernel follows on too, such as `triton_poi_fused_addmm_gelu_1`. None is a product.
        return "norm" if "layer_norm" in lower else "elementwise and copy"
    return next((kind for kind, words in _KINDS if any(word in lower for word in words)), "other")


def measure(*, smoke: bool) -> Iterator[dict[str, Any]]:
    """Yield the profile of the first two cases."""
    for case in map(fitting, (SMOKE_CASES if smoke else CASES)[:2]):
        yield {"case": case.name, **attempt(partial(_profile, case, compiled=not smoke))}


def _profile(case: Case, *, compiled: bool) -> dict[str, Any]:
    inputs = inputs_of(case, 1)[0]
    model, loss_of = ours(case, compiled=compiled)
    optimizer = optimizer_of(model)
    for _ in range(3):
        take_step(loss_of, optimizer, inputs)
    synchronize()
    began = time.perf_counter()
    take_step(loss_of, optimizer, inputs)
    launched = time.perf_counter() - began
    synchronize()
    seconds = time.perf_counter() - began
    on_gpu = device().type == "cuda"
    with profiler(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        take_step(loss_of, optimizer, inputs)
        synchronize()
    times, launches = dict[str, float](), dict[str, int]()
    for event in found.key_averages():
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if microseconds:
            kind = kind_of(event.key)
            times[kind] = times.get(kind, 0.0) + microseconds / 1000
            launches[kind] = launches.get(kind, 0) + event.count
    busy = sum(times.values()) / 1000
    return {
        "step_ms": 1000 * seconds,
        "host_ms": 1000 * launched,
        "idle_share": max(0.0, 1 - busy / seconds) if on_gpu else None,
        "ms": {kind: round(value, 3) for kind, value in sorted(times.items(), key=lambda item: -item[1])},
        "launches": launches,
    }
