# ruff: noqa: N815  (a field carries a shape suffix in capitals)
"""The linear layers before and behind attention, as functions that keep only what they read; see `fused_mlp.py`.

Attention reads rows with their padding, everything else tokens alone. So a group's tokens go from the product straight to their
places, and back. As a whole they never exist: such tensors, which come and go among those that last, would leave holes in the heap.

Shapes: B rows, S places of a row, P and Q those of prefix and queries, M all places, N tokens, T either of both, R tokens of a
group, D width, O features of one projection.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clips_pipeline.models.fused.packing import Packing
from clips_pipeline.models.fused.tiling import (
    NormGradients,
    ScratchBuffer,
    add_product,
    compute_dtype,
    groups,
    norm_rows,
    to_fill,
)


def norm_projections(
    x: Tensor, norm: nn.LayerNorm, linear: nn.Linear, parts: tuple[int, ...], packing: Packing | None
) -> tuple[Tensor, ...]:
    """Some of the D-wide parts of `linear(norm(x))`, each a tensor of its own, (T, D) -> (B, S, D) each.

    With a packing the other places hold zeros.

    Args:
        x: rows, (B, S, D) without a packing and (N, D) with one.
        norm: before.
        linear: D to a multiple of D.
        parts: which ones.
        packing: of `x`.
    """
    place_N, count = (None, x[..., 0].numel()) if packing is None else (packing.place_N, packing.keep_BS.numel())
    source = tuple(_Part(part, number, place_N) for number, part in enumerate(parts))
    made = _projections([x], norm, linear, (source,), (count,) * len(parts))
    shape = x.shape if packing is None else (*packing.keep_BS.shape, x.shape[-1])
    return tuple(part.view(shape) for part in made)


def joined_projections(
    before: Tensor,
    behind_MD: Tensor,
    norm: nn.LayerNorm,
    linear: nn.Linear,
    before_packing: Packing | None,
    packing: Packing,
    *,
    queries: bool = True,
) -> tuple[Tensor, ...]:
    """`norm_projections` of two sets of rows, with keys and values of both one behind the other: each is put there at once.

    Args:
        before: (B, P, D), or (N, D) with a packing.
        behind_MD: the tokens of (B, Q).
        norm: see there.
        linear: see there.
        before_packing: of `before`.
        packing: of `behind_MD`.
        queries: whether they are wanted too.

    Returns:
        The queries (B, P, D) and (B, Q, D) of both, if wanted; keys and values (B, P + Q, D).
    """
    rows, own = packing.keep_BS.shape
    first = before.shape[1] if before_packing is None else before_packing.keep_BS.shape[1]
    before_N = torch.arange(rows * first, device=before.device) if before_packing is None else before_packing.place_N
    keys = 2 if queries else 0
    sources = []
    for number, (place_N, length, start) in enumerate(((before_N, first, 0), (packing.place_N, own, first))):
        joined_N = place_N // length * (first + own) + place_N % length + start
        wanted = (_Part(0, number, place_N),) if queries else ()
        sources.append((*wanted, _Part(1, keys, joined_N), _Part(2, keys + 1, joined_N)))
    lengths = (*((first, own) if queries else ()), first + own, first + own)
    found = _projections([before, behind_MD], norm, linear, tuple(sources), tuple(rows * length for length in lengths))
    return tuple(part.view(rows, length, -1) for part, length in zip(found, lengths, strict=True))


class _Part(NamedTuple):
    """A projection (0 queries, 1 keys, 2 values) of one source: to which output it goes, and to which places there.

    `place_N` is None where the output is this projection and nothing else.
    """

    part: int
    output: int
    place_N: Tensor | None


def _projections(
    sources: list[Tensor],
    norm: nn.LayerNorm,
    linear: nn.Linear,
    parts: tuple[tuple[_Part, ...], ...],
    counts: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Outputs (count, D), zero where nothing goes."""
    made: tuple[Tensor, ...] = _NormProjections.apply(  # type: ignore[no-untyped-call]
        norm.weight,
        norm.bias,
        linear.weight,
        linear.bias,
        parts,
        counts,
        *(x.reshape(-1, x.shape[-1]) for x in sources),
    )
    return made


def add_projection(x: Tensor, mixed_BSD: Tensor, linear: nn.Linear, packing: Packing | None) -> Tensor:
    """`x + linear(mixed)`, (T, D) -> (T, D), where `mixed` still has the padding that `packing` leaves out.

    Keeps `mixed`, which attention keeps too, and not its tokens alone.

    Args:
        x: rows, (B, S, D) without a packing and (N, D) with one.
        mixed_BSD: what attention gives.
        linear: D to D.
        packing: of `x`.
    """
    made: Tensor = _AddProjection.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]),
        mixed_BSD.flatten(0, 1),
        linear.weight,
        linear.bias,
        None if packing is None else packing.place_N,
    )
    return made.view(x.shape)


class _NormProjections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scale_D: Tensor,
        shift_D: Tensor,
        weight: Tensor,
        bias: Tensor,
        parts: tuple[tuple[_Part, ...], ...],
        counts: tuple[int, ...],
        *sources: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(scale_D, shift_D, weight, bias, *sources)
        ctx.parts, ctx.kind = parts, compute_dtype(sources[0], weight)
        ctx.set_materialize_grads(False)
        width = sources[0].shape[1]
        weights_OD = torch.split(weight.to(ctx.kind), width)
        biases_O = torch.split(bias.to(ctx.kind), width)
        filled = {part.output for part in parts[0] if part.place_N is None}
        made = tuple(
            (sources[0].new_empty if output in filled else sources[0].new_zeros)((count, width), dtype=ctx.kind)
            for output, count in enumerate(counts)
        )
        for x_ND, its_parts in zip(sources, parts, strict=True):
            room = ScratchBuffer(x_ND, 3 * width, ctx.kind, width)
            for rows in groups(x_ND, 3 * width):
                normed_RD, _, _ = norm_rows(x_ND[rows], scale_D, shift_D, ctx.kind)
                for part, output, place_N in its_parts:
                    out_RO = made[output][rows] if place_N is None else room.of(0, rows)
                    torch.addmm(biases_O[part], normed_RD, weights_OD[part].T, out=out_RO)
                    if place_N is not None:
                        made[output].index_copy_(0, place_N[rows], out_RO)
        return made

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        scale_D, shift_D, weight, bias, *sources = ctx.saved_tensors
        width = weight.shape[1]
        weights_OD = torch.split(weight.to(ctx.kind), width)
        wants_scale, wants_shift, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        weight_grad = torch.empty_like(weight) if wants_weight else None
        bias_grad = torch.zeros_like(bias) if wants_bias else None
        scale_grad = shift_grad = None
        x_grads, seen = [], set[int]()
        for x_ND, parts, wants_x in zip(sources, ctx.parts, ctx.needs_input_grad[6:], strict=True):
            wants_norm = wants_x or wants_scale or wants_shift
            norm = NormGradients(x_ND, scale_D, shift_D) if wants_norm else None
            room = ScratchBuffer(x_ND, 3 * width, ctx.kind, width)
            for rows in groups(x_ND, 3 * width):
                normed_RD, mean, rstd = norm_rows(x_ND[rows], scale_D, shift_D, ctx.kind)
                back_RD: Tensor | None = None
                for part, output, place_N in parts:
                    gradient = gradients[output]
                    if gradient is None:
                        continue
                    gradient_RO = _tokens(gradient, rows, place_N, room)
                    columns = slice(part * width, (part + 1) * width)
                    if bias_grad is not None:
                        bias_grad[columns] += gradient_RO.sum(0)
                    if weight_grad is not None:
                        add_product(weight_grad[columns], gradient_RO.T, normed_RD, first=part not in seen)
                        seen.add(part)
                    if norm is not None:
                        # The sum over parts, in the first part's memory.
                        back_RD = (
                            gradient_RO @ weights_OD[part]
                            if back_RD is None
                            else back_RD.addmm_(gradient_RO, weights_OD[part])
                        )
                if norm is not None:
                    norm.add(rows, torch.zeros_like(normed_RD) if back_RD is None else back_RD, mean, rstd)
            x_grads.append(None if norm is None else norm.x_ND)
            if norm is not None:
                scale_grad = norm.scale_D if scale_grad is None else scale_grad + norm.scale_D
                shift_grad = norm.shift_D if shift_grad is None else shift_grad + norm.shift_D
        if weight_grad is not None:
            for part, part_OD in enumerate(torch.split(weight_grad, width)):
                if part not in seen:
                    part_OD.zero_()
        return scale_grad, shift_grad, weight_grad, bias_grad, None, None, *x_grads


class _AddProjection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, mixed_MD: Tensor, weight: Tensor, bias: Tensor, place_N: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(mixed_MD, weight)
        ctx.place_N = place_N
        kind, width = mixed_MD.dtype, mixed_MD.shape[1]
        narrow = weight.to(kind).T
        out_ND = x_ND + bias
        room = ScratchBuffer(out_ND, 3 * width, kind, width)
        for rows in groups(out_ND, 3 * width):
            add_product(out_ND[rows], _tokens(mixed_MD, rows, place_N, room), narrow)
        return out_ND

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_ND,) = gradients
        mixed_MD, weight = ctx.saved_tensors
        place_N: Tensor | None = ctx.place_N
        kind, width = mixed_MD.dtype, mixed_MD.shape[1]
        _, wants_mixed, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        wide = weight.to(kind)
        mixed_grad = weight_grad = None
        if wants_mixed:
            mixed_grad = torch.empty_like(mixed_MD) if place_N is None else torch.zeros_like(mixed_MD)
        if wants_weight:
            weight_grad = to_fill(weight, gradient_ND)
        room = ScratchBuffer(gradient_ND, 3 * width, kind, width)
        for rows in groups(gradient_ND, 3 * width):
            gradient_RO = gradient_ND[rows].to(kind)
            if weight_grad is not None:
                add_product(weight_grad, gradient_RO.T, _tokens(mixed_MD, rows, place_N, room), first=rows.start == 0)
            if mixed_grad is None:
                continue
            if place_N is None:
                torch.mm(gradient_RO, wide, out=mixed_grad[rows])
            else:
                back_RD = torch.mm(gradient_RO, wide, out=room.of(0, rows))
                mixed_grad.index_copy_(0, place_N[rows], back_RD)
        bias_grad = gradient_ND.sum(0).to(weight.dtype) if wants_bias else None
        return gradient_ND, mixed_grad, weight_grad, bias_grad, None


def _tokens(x_MD: Tensor, rows: slice, place_N: Tensor | None, room: ScratchBuffer) -> Tensor:
    """A group's tokens, (R, D), out of rows that hold others too, or nothing else."""
    if place_N is None:
        return x_MD[rows]
    found: Tensor = torch.index_select(x_MD, 0, place_N[rows], out=room.of(0, rows))
    return found
