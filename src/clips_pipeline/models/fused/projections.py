# ruff: noqa: N815  (a field carries a shape suffix in capitals)
"""Fused linear layers before and after attention, which save only their input; see `mlp.py`.

Attention reads padded rows, all other layers read the tokens alone. The projections of a tile are written directly to the
positions of its tokens in the padded rows, and read back from there. A tensor of all tokens is never allocated; such short-lived
large tensors would fragment the heap.

Shapes: B rows, S positions of a row, P and Q positions of prefix and queries, M all positions, N tokens, T either (B, S) or N,
R tokens of a tile, D width, O features of one projection.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clips_pipeline.models.fused.tiling import (
    NormGradients,
    ScratchBuffer,
    add_product,
    compute_dtype,
    gradient_buffer,
    norm_rows,
    row_tiles,
)
from clips_pipeline.models.rows.packing import Packing


def norm_projections(
    x: Tensor, norm: nn.LayerNorm, linear: nn.Linear, parts: tuple[int, ...], packing: Packing | None
) -> tuple[Tensor, ...]:
    """Compute some of the D-wide parts of `linear(norm(x))`, each as a separate tensor, (T, D) -> (B, S, D) each.

    With a packing, padding is zero.

    Args:
        x: rows, (B, S, D) without a packing and (N, D) with one.
        norm: layer norm.
        linear: linear layer, D to a multiple of D.
        parts: indices of the parts.
        packing: packing of `x`.
    """
    index_N, count = (None, x[..., 0].numel()) if packing is None else (packing.index_N, packing.keep_BS.numel())
    source = tuple(_Part(part, number, index_N) for number, part in enumerate(parts))
    outputs = _projections([x], norm, linear, (source,), (count,) * len(parts))
    shape = x.shape if packing is None else (*packing.keep_BS.shape, x.shape[-1])
    return tuple(part.view(shape) for part in outputs)


def joined_projections(
    prefix: Tensor,
    queries_MD: Tensor,
    norm: nn.LayerNorm,
    linear: nn.Linear,
    prefix_packing: Packing | None,
    packing: Packing,
    *,
    queries: bool = True,
) -> tuple[Tensor, ...]:
    """Compute `norm_projections` of a prefix and of the queries after it, with joint keys and values, without a concatenation.

    Args:
        prefix: (B, P, D), or (N, D) with a packing.
        queries_MD: tokens of (B, Q).
        norm: layer norm.
        linear: linear layer, D to 3 D.
        prefix_packing: packing of `prefix`.
        packing: packing of `queries_MD`.
        queries: whether the query projections are returned too.

    Returns:
        With `queries`, the query projections (B, P, D) and (B, Q, D); then keys and values (B, P + Q, D).
    """
    rows, own = packing.keep_BS.shape
    first = prefix.shape[1] if prefix_packing is None else prefix_packing.keep_BS.shape[1]
    prefix_N = torch.arange(rows * first, device=prefix.device) if prefix_packing is None else prefix_packing.index_N
    keys = 2 if queries else 0
    sources = []
    for number, (index_N, length, start) in enumerate(((prefix_N, first, 0), (packing.index_N, own, first))):
        joined_N = index_N // length * (first + own) + index_N % length + start
        query_part = (_Part(0, number, index_N),) if queries else ()
        sources.append((*query_part, _Part(1, keys, joined_N), _Part(2, keys + 1, joined_N)))
    lengths = (*((first, own) if queries else ()), first + own, first + own)
    outputs = _projections(
        [prefix, queries_MD], norm, linear, tuple(sources), tuple(rows * length for length in lengths)
    )
    return tuple(part.view(rows, length, -1) for part, length in zip(outputs, lengths, strict=True))


class _Part(NamedTuple):
    """One projection of one source, and where it is written.

    `part` is 0 for queries, 1 for keys, 2 for values; `output` is the index of the output. `index_N` are the rows there; None
    writes all rows.
    """

    part: int
    output: int
    index_N: Tensor | None


def _projections(
    sources: list[Tensor],
    norm: nn.LayerNorm,
    linear: nn.Linear,
    parts: tuple[tuple[_Part, ...], ...],
    counts: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Return the outputs (count, D), zero in rows that nothing is written to."""
    outputs: tuple[Tensor, ...] = _NormProjections.apply(
        norm.weight,
        norm.bias,
        linear.weight,
        linear.bias,
        parts,
        counts,
        *(x.reshape(-1, x.shape[-1]) for x in sources),
    )
    return outputs


def add_projection(x: Tensor, mixed_BSD: Tensor, linear: nn.Linear, packing: Packing | None) -> Tensor:
    """Compute `x + linear(mixed)`, (T, D) -> (T, D), where `mixed` has the padding that `packing` leaves out.

    Saves `mixed`, which attention saves too, instead of another tensor of its tokens.

    Args:
        x: rows, (B, S, D) without a packing and (N, D) with one.
        mixed_BSD: output of attention.
        linear: linear layer, D to D.
        packing: packing of `x`.
    """
    output: Tensor = _AddProjection.apply(
        x.reshape(-1, x.shape[-1]),
        mixed_BSD.flatten(0, 1),
        linear.weight,
        linear.bias,
        None if packing is None else packing.index_N,
    )
    return output.view(x.shape)


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
        ctx.parts, ctx.dtype = parts, compute_dtype(sources[0], weight)
        ctx.set_materialize_grads(False)
        width = sources[0].shape[1]
        weights_OD = torch.split(weight.to(ctx.dtype), width)
        biases_O = torch.split(bias.to(ctx.dtype), width)
        complete = {part.output for part in parts[0] if part.index_N is None}
        outputs = tuple(
            (sources[0].new_empty if output in complete else sources[0].new_zeros)((count, width), dtype=ctx.dtype)
            for output, count in enumerate(counts)
        )
        for x_ND, its_parts in zip(sources, parts, strict=True):
            scratch = ScratchBuffer(x_ND, 3 * width, ctx.dtype, width)
            for rows in row_tiles(x_ND, 3 * width):
                normed_RD, _, _ = norm_rows(x_ND[rows], scale_D, shift_D, ctx.dtype)
                for part, output, index_N in its_parts:
                    out_RO = outputs[output][rows] if index_N is None else scratch.view(0, rows)
                    torch.addmm(biases_O[part], normed_RD, weights_OD[part].T, out=out_RO)
                    if index_N is not None:
                        outputs[output].index_copy_(0, index_N[rows], out_RO)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        scale_D, shift_D, weight, bias, *sources = ctx.saved_tensors
        width = weight.shape[1]
        weights_OD = torch.split(weight.to(ctx.dtype), width)
        wants_scale, wants_shift, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        weight_grad = torch.empty_like(weight) if wants_weight else None
        bias_grad = torch.zeros_like(bias) if wants_bias else None
        scale_grad = shift_grad = None
        x_grads, seen = [], set[int]()
        for x_ND, parts, wants_x in zip(sources, ctx.parts, ctx.needs_input_grad[6:], strict=True):
            wants_norm = wants_x or wants_scale or wants_shift
            norm = NormGradients(x_ND, scale_D, shift_D) if wants_norm else None
            scratch = ScratchBuffer(x_ND, 3 * width, ctx.dtype, width)
            for rows in row_tiles(x_ND, 3 * width):
                normed_RD, mean, rstd = norm_rows(x_ND[rows], scale_D, shift_D, ctx.dtype)
                back_RD: Tensor | None = None
                for part, output, index_N in parts:
                    gradient = gradients[output]
                    if gradient is None:
                        continue
                    gradient_RO = _tokens(gradient, rows, index_N, scratch)
                    columns = slice(part * width, (part + 1) * width)
                    if bias_grad is not None:
                        bias_grad[columns] += gradient_RO.sum(0)
                    if weight_grad is not None:
                        add_product(weight_grad[columns], gradient_RO.T, normed_RD, first=part not in seen)
                        seen.add(part)
                    if norm is not None:
                        # Sum over parts, in the memory of the first.
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
        ctx: Any, x_ND: Tensor, mixed_MD: Tensor, weight: Tensor, bias: Tensor, index_N: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(mixed_MD, weight)
        ctx.index_N = index_N
        dtype, width = mixed_MD.dtype, mixed_MD.shape[1]
        narrow = weight.to(dtype).T
        out_ND = x_ND.new_empty(x_ND.shape, dtype=torch.promote_types(x_ND.dtype, dtype))
        torch.add(x_ND, bias, out=out_ND)
        scratch = ScratchBuffer(out_ND, 3 * width, dtype, width)
        for rows in row_tiles(out_ND, 3 * width):
            add_product(out_ND[rows], _tokens(mixed_MD, rows, index_N, scratch), narrow)
        return out_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_ND,) = gradients
        mixed_MD, weight = ctx.saved_tensors
        index_N: Tensor | None = ctx.index_N
        dtype, width = mixed_MD.dtype, mixed_MD.shape[1]
        _, wants_mixed, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        wide = weight.to(dtype)
        mixed_grad = weight_grad = None
        if wants_mixed:
            mixed_grad = torch.empty_like(mixed_MD) if index_N is None else torch.zeros_like(mixed_MD)
        if wants_weight:
            weight_grad = gradient_buffer(weight, gradient_ND)
        scratch = ScratchBuffer(gradient_ND, 3 * width, dtype, width)
        for rows in row_tiles(gradient_ND, 3 * width):
            gradient_RO = gradient_ND[rows].to(dtype)
            if weight_grad is not None:
                add_product(
                    weight_grad, gradient_RO.T, _tokens(mixed_MD, rows, index_N, scratch), first=rows.start == 0
                )
            if mixed_grad is None:
                continue
            if index_N is None:
                torch.mm(gradient_RO, wide, out=mixed_grad[rows])
            else:
                back_RD = torch.mm(gradient_RO, wide, out=scratch.view(0, rows))
                mixed_grad.index_copy_(0, index_N[rows], back_RD)
        bias_grad = gradient_ND.sum(0).to(weight.dtype) if wants_bias else None
        return gradient_ND, mixed_grad, weight_grad, bias_grad, None


def _tokens(x_MD: Tensor, rows: slice, index_N: Tensor | None, scratch: ScratchBuffer) -> Tensor:
    """Return the tokens (R, D) of a tile from padded rows (`index_N`) or from packed ones (None)."""
    if index_N is None:
        return x_MD[rows]
    tokens_RD: Tensor = torch.index_select(x_MD, 0, index_N[rows], out=scratch.view(0, rows))
    return tokens_RD
