"""Part `machine`: versions, and what the card reaches in a large matrix product and in a copy."""

import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.gpu.setup import device, synchronize
from clips_pipeline.models.precision import allow_tf32


def measure(*, smoke: bool) -> Iterator[dict[str, Any]]:
    """Yield versions, then peaks."""
    target = device()
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    for package in ("triton", "numpy", "pillow", "simplejpeg"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if target.type == "cuda":
        properties = torch.cuda.get_device_properties(target)
        found |= {
            "device": properties.name,
            "memory_gib": properties.total_memory / 2**30,
            "driver_capability": properties.major,
        }
    else:
        found["device"] = "cpu"
    yield found
    n = 256 if smoke else 8192
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        allow_tf32(tf32)
        a, b = (torch.randn(n, n, device=target, dtype=dtype) for _ in range(2))
        yield {"peak": name, "tflops": 2 * n**3 / _seconds(lambda a=a, b=b: a @ b) / 1e12}  # type: ignore[misc]
    allow_tf32(False)
    source = torch.empty(2**20 if smoke else 2**30, dtype=torch.uint8, device=target)
    target_tensor = torch.empty_like(source)
    yield {"bandwidth_gb_s": 2 * source.numel() / _seconds(lambda: target_tensor.copy_(source)) / 1e9}


def _seconds(action: Callable[[], object], times: int = 10) -> float:
    for _ in range(3):
        action()
    synchronize()
    began = time.perf_counter()
    for _ in range(times):
        action()
    synchronize()
    return (time.perf_counter() - began) / times
