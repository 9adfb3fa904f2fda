"""Rows in groups that fit the processor's cache: the parts that `fused_mlp.py` and `fused_projections.py` are put together from.

Shapes: N tokens, R tokens of a group, D width, F hidden width.
"""

import functools
import threading
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from clips_pipeline.models.precision import like_weight
from clips_pipeline.models.sizes import EPSILON

Gelu = Literal["none", "tanh"]
"""PyTorch's name of the GELU: "none" is exact (vision), "tanh" the approximation (text and captioner)."""

GROUP_BYTES = 8 * 2**20
"""Of hidden layer that a group of rows holds on a CPU: long enough for fast products, short enough to stay in a cache."""


class NormGradients:
    """Gradients of a layer norm, filled group by group."""

    def __init__(self, x_ND: Tensor, scale_D: Tensor, shift_D: Tensor) -> None:
        self.input_ND, self.norm = x_ND, (scale_D, shift_D)
        self.x_ND = torch.empty_like(x_ND)
        self.scale_D, self.shift_D = to_fill(scale_D, x_ND), to_fill(shift_D, x_ND)

    def add(self, rows: slice, normed_grad_RD: Tensor, mean: Tensor, rstd: Tensor) -> None:
        """The part of these rows, from the gradient of the norm's output."""
        x_RD, (scale_D, shift_D) = like_weight(self.input_ND[rows], self.norm[0]), self.norm
        x_grad, scale_grad, shift_grad = torch.ops.aten.native_layer_norm_backward(
            normed_grad_RD.to(x_RD.dtype),
            x_RD,
            x_RD.shape[-1:],
            mean,
            rstd,
            scale_D.to(x_RD.dtype),
            shift_D.to(x_RD.dtype),
            [True, True, True],
        )
        self.x_ND[rows] = x_grad
        for total, part in ((self.scale_D, scale_grad), (self.shift_D, shift_grad)):
            if rows.start == 0:
                total.copy_(part)
            else:
                total += part


class ScratchBuffer:
    """Memory for tensors of a group, the same for every group.

    On a CPU it is also the same for every call of a thread: pieces of this size that come and go among the layers' small
    and lasting ones would leave holes in the heap. An accelerator's allocator looks after that by itself.

    Args:
        x_ND: the rows that are grouped.
        hidden: by which `groups` makes groups of them.
        kind: of the tensors.
        width: of the tensors.
        places: how many there are at a time.
    """

    _kept = threading.local()

    def __init__(self, x_ND: Tensor, hidden: int, kind: torch.dtype, width: int, places: int = 1) -> None:
        self._x_ND, self._hidden, self._kind, self._width, self._count = x_ND, hidden, kind, width, places

    def of(self, place: int, rows: slice) -> Tensor:
        """A tensor (R, width)."""
        return self._places[place, : rows.stop - rows.start]

    @functools.cached_property
    def _places(self) -> Tensor:
        """Found at the first use: where no row is moved there is none."""
        device = self._x_ND.device
        longest = max((rows.stop - rows.start for rows in groups(self._x_ND, self._hidden)), default=0)
        size = self._count * longest * self._width
        found: Tensor | None = getattr(self._kept, str(self._kind), None) if device.type == "cpu" else None
        if found is None or found.numel() < size:
            with torch.inference_mode(False):
                found = torch.empty(size, dtype=self._kind, device=device)
            if device.type == "cpu":
                setattr(self._kept, str(self._kind), found)
        return found[:size].view(self._count, longest, self._width)


def groups(x_ND: Tensor, hidden: int) -> Iterator[slice]:
    """Rows that go through together."""
    count = len(x_ND)
    size = max(1, GROUP_BYTES // (hidden * x_ND.element_size())) if x_ND.device.type == "cpu" else max(1, count)
    # Of equal length: a short last one would be a slow product.
    number = -(-count // size)
    for group in range(number):
        yield slice(count * group // number, count * (group + 1) // number)


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """In what the products are taken."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


def norm_rows(x_RD: Tensor, scale_D: Tensor, shift_D: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Normed rows, their means and inverse deviations; in at least float32, as `precision.FullNorm`."""
    x_RD = like_weight(x_RD, scale_D)
    normed, mean, rstd = torch.native_layer_norm(
        x_RD, x_RD.shape[-1:], scale_D.to(x_RD.dtype), shift_D.to(x_RD.dtype), EPSILON
    )
    return normed.to(kind), mean, rstd


def apply_gelu(x: Tensor, gelu: Gelu, out: Tensor) -> Tensor:
    """GELU of `x` into `out`, which may be `x`."""
    made: Tensor = torch.ops.aten.gelu.out(x, approximate=gelu, out=out)
    return made


def to_fill(weight: Tensor, x_ND: Tensor, *, whole: bool = True) -> Tensor:
    """Memory for a gradient that the first group sets, if there is one and it sets all of it; else zeros."""
    return torch.empty_like(weight) if len(x_ND) and whole else torch.zeros_like(weight)


def add_product(total: Tensor, a: Tensor, b: Tensor, *, first: bool = False) -> None:
    """`total += a @ b`, in the precision of the total; `total = a @ b` where it is the first."""
    if total.dtype != a.dtype:
        total.copy_(a @ b) if first else total.add_(a @ b)
    elif first:
        torch.mm(a, b, out=total)
    else:
        torch.addmm(total, a, b, out=total)
