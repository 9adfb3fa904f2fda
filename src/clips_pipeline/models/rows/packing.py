# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""Packing: rows of unequal length as one tensor of tokens without padding. All layers except attention work on it.

Shapes: B rows, R = B + 1, S positions of a row, N positions that hold a token, D features.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Lengths(NamedTuple):
    """Where each packed row begins: `offsets_R` (int32) has the first token of each row and, last, N.

    `longest` is the length of the longest row, or an upper bound. It is a number of the host, so that no kernel waits for it.
    """

    offsets_R: Tensor
    longest: int


class Packing(NamedTuple):
    """The positions of (B, S) that hold a token: as flags (B, S), as N flat indices in ascending order, and as lengths."""

    keep_BS: Tensor
    index_N: Tensor
    lengths: Lengths

    @classmethod
    def of(cls, keep_BS: Tensor) -> "Packing":
        """Find the positions of the tokens; synchronizes with the device."""
        count_B = keep_BS.sum(dim=1)
        longest = int(count_B.amax()) if len(count_B) else 0
        return cls(keep_BS, keep_BS.flatten().nonzero().squeeze(1), Lengths(_offsets(count_B), longest))

    @classmethod
    def at(cls, index_N: Tensor, shape: tuple[int, int], lengths: Lengths) -> "Packing":
        """Return the packing of known positions, without waiting for the device."""
        keep_M = torch.zeros(shape[0] * shape[1], dtype=torch.bool, device=index_N.device)
        return cls(keep_M.index_fill_(0, index_N, True).view(shape), index_N, lengths)

    @classmethod
    def full(cls, rows: int, positions: int, device: torch.device) -> "Packing":
        """Return the packing of rows without padding."""
        offsets_R = torch.arange(rows + 1, dtype=torch.int32, device=device) * positions
        keep_BS = torch.ones(rows, positions, dtype=torch.bool, device=device)
        return cls(keep_BS, torch.arange(rows * positions, device=device), Lengths(offsets_R, positions))

    def pack(self, x_BSD: Tensor) -> Tensor:
        """Return the tokens (N, D) of (B, S, D), row-major."""
        packed: Tensor = _PackOrUnpack.apply(x_BSD, self, True)
        return packed

    def unpack(self, x_ND: Tensor) -> Tensor:
        """Return (B, S, D) from tokens (N, D), with zeros as padding."""
        unpacked: Tensor = _PackOrUnpack.apply(x_ND, self, False)
        return unpacked

    def last_token(self) -> Tensor:
        """Return the index within N of each row's last token, (B,). Every row must have a token."""
        return self.lengths.offsets_R[1:].long() - 1

    def indices(self) -> Tensor:
        """Return the index within N of each token, (B, S); at padding, that of the preceding token."""
        return (self.keep_BS.flatten().cumsum(dim=0) - 1).view_as(self.keep_BS)


def prefix_packing(web: Packing, image_tokens: int) -> Packing:
    """Return the packing of the captioner's prefix (B, P + S - 1), without waiting for the device.

    Args:
        web: packing of the rows of web captions (B, S); the last token of a row, [CLS], is not in the prefix.
        image_tokens: P, all kept.
    """
    rows, positions = web.keep_BS.shape
    offsets_R, device = web.lengths.offsets_R.long(), web.index_N.device
    own_R = offsets_R + torch.arange(rows + 1, device=device) * (image_tokens - 1)
    place_N = torch.arange(len(web.index_N) + rows * (image_tokens - 1), device=device)
    row_N = row_of(own_R, len(place_N))
    column_N = place_N - own_R[row_N]
    # The token's own column, since a row may have a hidden token inside.
    token_N = (offsets_R[row_N] + column_N - image_tokens).clamp_min(0)
    web_column_N = web.index_N[token_N] % positions + image_tokens
    width = image_tokens + positions - 1
    index_N = row_N * width + torch.where(column_N < image_tokens, column_N, web_column_N)
    lengths = Lengths(own_R.int(), image_tokens + web.lengths.longest - 1)
    return Packing.at(index_N, (rows, width), lengths)


def row_of(offsets_R: Tensor, count: int) -> Tensor:
    """Return the row (N,) of each of `count` packed tokens."""
    tokens_N = torch.arange(count, device=offsets_R.device)
    return torch.searchsorted(offsets_R[1:].long().contiguous(), tokens_N, right=True)


def _offsets(count_B: Tensor) -> Tensor:
    return torch.nn.functional.pad(count_B.cumsum(dim=0), (1, 0)).int()


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
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(gradient, ctx.packing), None, None
