"""Part `attention`: which kernels run at each call site of attention, forward and backward, in bfloat16."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.setup import Case, device, inputs_of
from clips_pipeline.models.rows.attention import PackedPrefixRows, PrefixRows, Rows, attend, attend_tail
from clips_pipeline.models.rows.packing import prefix_packing

_WORDS = ("flash", "fmha", "attention", "cudnn", "mha", "softmax", "bmm")


def measure(*, smoke: bool) -> Iterator[dict[str, Any]]:
    """Yield the kernels of each call site."""
    heads, width = (2, 64) if smoke else (12, 64)
    for name, rows, tokens, own in _sites(smoke):
        shape = (*tokens, heads, width)
        q = torch.randn(*(own or tokens), heads, width, device=device(), dtype=torch.bfloat16, requires_grad=True)
        k, v = (torch.randn(shape, device=device(), dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        yield {"site": name, "kernels": kernels(q, k, v, rows, tail=own is not None)}


def kernels(q: Tensor, k: Tensor, v: Tensor, rows: Rows, *, tail: bool) -> list[str]:
    """Return the names of the kernels (on a CPU: of the operators) that attend."""
    on_gpu = q.device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as found:
        (attend_tail if tail else attend)(q, k, v, rows).sum().backward()  # type: ignore[no-untyped-call]
    names = {event.key for event in found.key_averages()}
    return sorted(name[:120] for name in names if any(word in name.lower() for word in _WORDS))


def _sites(smoke: bool) -> Iterator[tuple[str, Rows, tuple[int, ...], tuple[int, ...] | None]]:
    """Yield name, rows, leading sizes of all tokens, and those of the tail where only that attends."""
    batch = 4 if smoke else 64
    case = Case("tiny", 64, "mask", batch)
    (inputs,) = inputs_of(case, 1)
    (chunk,) = inputs.layout.chunks()
    assert chunk.captions is not None
    web, fragment = (texts.packing for texts in chunk.texts)
    queries = chunk.captions.packing
    yield "vision", None, (batch, 37), None
    yield "text, attend", None, (batch, 80), None
    yield "text, attend, last block", None, (batch, 80), (batch, 1)
    yield "text, mask", web, (len(web.index_N),), None
    yield "text, mask, last block", fragment, (len(fragment.index_N),), (batch,)
    yield "captioner, attend", PrefixRows(115), (batch, 115 + 64), None
    yield "captioner, attend, last block", PrefixRows(115), (batch, 115 + 64), (batch, 64)
    packed = PackedPrefixRows.of(prefix_packing(web, 36), queries)
    tokens = len(packed.order_N)
    yield "captioner, mask", packed, (tokens,), None
    yield "captioner, mask, last block", packed, (tokens,), (tokens - packed.prefix_tokens,)
