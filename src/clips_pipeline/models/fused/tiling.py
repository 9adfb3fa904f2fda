"""Row tiles that fit the processor's cache: the helpers that `mlp.py` and `projections.py` share.

Shapes: N tokens, R tokens of a tile, D width, F hidden width.
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
"""PyTorch's names of GELU: "none" is exact (vision), "tanh" the approximation (text and captioner)."""

TILE_BYTES = 8 * 2**20
"""Bytes of the hidden layer of a tile on a CPU: large enough for fast matrix products, small enough for the cache."""


class NormGradients:
    """Gradients of a layer norm, accumulated tile by tile.

    Args:
        x_ND: input of the norm.
        scale_D: its weight.
        shift_D: its bias.
    """

    def __init__(self, x_ND: Tensor, scale_D: Tensor, shift_D: Tensor) -> None:
        self.input_ND, self.norm = x_ND, (scale_D, shift_D)
        self.x_ND = torch.empty_like(x_ND)
        self.scale_D, self.shift_D = gradient_buffer(scale_D, x_ND), gradient_buffer(shift_D, x_ND)

    def add(self, rows: slice, normed_grad_RD: Tensor, mean: Tensor, rstd: Tensor) -> None:
        """Add the gradients of one tile, from the gradient of the norm's output."""
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
    """Memory for the intermediate tensors of a tile, reused by every tile.

    On a CPU all calls of a thread share the memory: blocks of this size that are allocated and freed between small long-lived
    tensors would fragment the heap. An accelerator's caching allocator avoids that without help.

    Args:
        x_ND: the rows that are tiled.
        hidden: hidden width, from which `row_tiles` computes the tile size.
        dtype: dtype of the tensors.
        width: width of the tensors.
        slots: number of tensors at a time.
    """

    _cache = threading.local()

    def __init__(self, x_ND: Tensor, hidden: int, dtype: torch.dtype, width: int, slots: int = 1) -> None:
        self._x_ND, self._hidden, self._dtype, self._width, self._count = x_ND, hidden, dtype, width, slots

    def view(self, slot: int, rows: slice) -> Tensor:
        """Return the tensor (R, width) of a slot for one tile."""
        return self._slots[slot, : rows.stop - rows.start]

    @functools.cached_property
    def _slots(self) -> Tensor:
        """The memory (slots, longest tile, width), allocated at the first use, if there is one."""
        device = self._x_ND.device
        longest = max((rows.stop - rows.start for rows in row_tiles(self._x_ND, self._hidden)), default=0)
        size = self._count * longest * self._width
        buffer: Tensor | None = getattr(self._cache, str(self._dtype), None) if device.type == "cpu" else None
        if buffer is None or buffer.numel() < size:
            with torch.inference_mode(False):
                buffer = torch.empty(size, dtype=self._dtype, device=device)
            if device.type == "cpu":
                setattr(self._cache, str(self._dtype), buffer)
        return buffer[:size].view(self._count, longest, self._width)


def row_tiles(x_ND: Tensor, hidden: int) -> Iterator[slice]:
    """Yield the tiles: ranges of rows that are processed together. On an accelerator all rows are one tile."""
    count = len(x_ND)
    size = max(1, TILE_BYTES // (hidden * x_ND.element_size())) if x_ND.device.type == "cpu" else max(1, count)
    # Tiles of equal length: a short last tile would be a slow product.
    number = -(-count // size)
    for tile in range(number):
        yield slice(count * tile // number, count * (tile + 1) // number)


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of matrix products: autocast's if it is enabled, else that of the weight."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


def norm_rows(x_RD: Tensor, scale_D: Tensor, shift_D: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return normed rows in `dtype`, their means and inverse deviations, computed in at least float32 as in `FullNorm`."""
    x_RD = like_weight(x_RD, scale_D)
    normed, mean, rstd = torch.native_layer_norm(
        x_RD, x_RD.shape[-1:], scale_D.to(x_RD.dtype), shift_D.to(x_RD.dtype), EPSILON
    )
    return normed.to(dtype), mean, rstd


def apply_gelu(x: Tensor, gelu: Gelu, out: Tensor) -> Tensor:
    """Write GELU of `x` to `out`, which may be `x`."""
    result: Tensor = torch.ops.aten.gelu.out(x, approximate=gelu, out=out)
    return result


def gradient_buffer(weight: Tensor, x_ND: Tensor, *, whole: bool = True) -> Tensor:
    """Return memory for the gradient of `weight`.

    It is uninitialized if there are rows and the first tile sets all of it (`whole`), else zero.
    """
    return torch.empty_like(weight) if len(x_ND) and whole else torch.zeros_like(weight)


def add_product(total: Tensor, a: Tensor, b: Tensor, *, first: bool = False) -> None:
    """Compute `total += a @ b` in the precision of `total`, or `total = a @ b` if it is the first product."""
    if total.dtype != a.dtype:
        total.copy_(a @ b) if first else total.add_(a @ b)
    elif first:
        torch.mm(a, b, out=total)
    else:
        torch.addmm(total, a, b, out=total)
