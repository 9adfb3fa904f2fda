# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""Packing: rows of unequal length as one tensor of tokens without padding. All layers except attention work on it.

Shapes: B rows, S positions of a row, N positions that hold a token, D features.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Packing(NamedTuple):
    """The positions of (B, S) that hold a token: as flags (B, S), and as N flat indices in ascending order."""

    keep_BS: Tensor
    index_N: Tensor

    @classmethod
    def of(cls, keep_BS: Tensor) -> "Packing":
        """Find the positions of the tokens; synchronizes with the device once."""
        return cls(keep_BS, keep_BS.flatten().nonzero().squeeze(1))

    def pack(self, x_BSD: Tensor) -> Tensor:
        """Return the tokens (N, D) of (B, S, D), row-major."""
        packed: Tensor = _PackOrUnpack.apply(x_BSD, self, True)  # type: ignore[no-untyped-call]
        return packed

    def unpack(self, x_ND: Tensor) -> Tensor:
        """Return (B, S, D) from tokens (N, D), with zeros as padding."""
        unpacked: Tensor = _PackOrUnpack.apply(x_ND, self, False)  # type: ignore[no-untyped-call]
        return unpacked

    def last_token(self) -> Tensor:
        """Return the index within N of each row's last token, (B,). Every row must have a token."""
        return self.keep_BS.sum(dim=1).cumsum(dim=0) - 1

    def indices(self) -> Tensor:
        """Return the index within N of each token, (B, S); at padding, that of the preceding token."""
        return (self.keep_BS.flatten().cumsum(dim=0) - 1).view_as(self.keep_BS)


def _take(x_BSD: Tensor, packing: Packing) -> Tensor:
    return x_BSD.flatten(0, 1).index_select(0, packing.index_N)


def _put(x_ND: Tensor, packing: Packing) -> Tensor:
    batch, places = packing.keep_BS.shape
    x_MD = x_ND.new_zeros(batch * places, x_ND.shape[1])
    return x_MD.index_copy_(0, packing.index_N, x_ND).view(batch, places, -1)


class _PackOrUnpack(torch.autograd.Function):
    """`_take` or `_put`; each is the other's gradient.

    PyTorch's own gradient of indexing adds, because an index may occur twice. Here each position occurs once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, packing: Packing, pack: bool) -> Tensor:
        ctx.packing, ctx.back = packing, _put if pack else _take
        return _take(x, packing) if pack else _put(x, packing)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(gradient, ctx.packing), None, None
