"""A norm and the linear layers behind it as one function that keeps only its input for the backward pass.

Autograd would keep what each layer reads: the normed rows, the hidden layer and its GELU, ten widths a token. Here they are made
again. They never exist as a whole either: rows go through in groups that fit the processor's cache, and every group writes
into the same memory. On an accelerator all rows are one group.

What is computed is that of the plain modules, in the order of summation that groups give; `tests/unit/models/test_fused.py` holds
both against each other.

Shapes: B rows, S places of a row, M = B S, N tokens, T either of both, R tokens of a group, D width, F hidden width, O features of
one projection.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clips_pipeline.models.packing import Packing
from clips_pipeline.models.row_groups import (
    Gelu,
    NormGradients,
    Room,
    add_product,
    apply_gelu,
    groups,
    kind_of,
    norm_rows,
    to_fill,
)


def norm_projections(
    x: Tensor, norm: nn.LayerNorm, linear: nn.Linear, parts: tuple[int, ...], packing: Packing | None
) -> tuple[Tensor, ...]:
    """Some of the D-wide parts of `linear(norm(x))`, each a tensor of its own, (T, D) -> (B, S, D) each.

    With a packing each group of tokens is put in its places, which hold zeros elsewhere: the tokens' parts, which would
    come and go among what lasts and leave holes in the heap, never exist as a whole.

    Args:
        x: rows, (B, S, D) without a packing and (N, D) with one.
        norm: before.
        linear: D to a multiple of D.
        parts: which ones.
        packing: of `x`.
    """
    made: tuple[Tensor, ...] = _NormProjections.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]), norm.weight, norm.bias, linear.weight, linear.bias, parts, packing
    )
    shape = x.shape if packing is None else (*packing.keep_BS.shape, x.shape[-1])
    return tuple(part.view(shape) for part in made)


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
        x.reshape(-1, x.shape[-1]), mixed_BSD.flatten(0, 1), linear.weight, linear.bias, packing
    )
    return made.view(x.shape)


def join(before_BPD: Tensor, behind_BQD: Tensor) -> tuple[Tensor, Tensor]:
    """Both one behind the other, (B, P + Q, D), and the first as a part of that, which takes no memory of its own."""
    made: tuple[Tensor, Tensor] = _Join.apply(before_BPD, behind_BQD)  # type: ignore[no-untyped-call]
    return made


def norm_mlp(x: Tensor, norm: nn.LayerNorm, wide: nn.Linear, narrow: nn.Linear, gelu: Gelu) -> Tensor:
    """`x + narrow(gelu(wide(norm(x))))`, (..., D) -> (..., D).

    Args:
        x: rows.
        norm: before.
        wide: D to F.
        narrow: F to D.
        gelu: between them.
    """
    made: Tensor = _NormMlp.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]), norm.weight, norm.bias, wide.weight, wide.bias, narrow.weight, narrow.bias, gelu
    )
    return made.view(x.shape)


class _NormProjections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        scale_D: Tensor,
        shift_D: Tensor,
        weight: Tensor,
        bias: Tensor,
        parts: tuple[int, ...],
        packing: Packing | None,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x_ND, scale_D, shift_D, weight, bias)
        ctx.parts, ctx.packing, ctx.kind = parts, packing, kind_of(x_ND, weight)
        ctx.set_materialize_grads(False)
        width = x_ND.shape[1]
        weights_OD = torch.split(weight.to(ctx.kind), width)
        biases_O = torch.split(bias.to(ctx.kind), width)
        if packing is None:
            made = tuple(x_ND.new_empty(x_ND.shape, dtype=ctx.kind) for _ in parts)
        else:
            made = tuple(x_ND.new_zeros((packing.keep_BS.numel(), width), dtype=ctx.kind) for _ in parts)
            room = Room(x_ND, 3 * width, ctx.kind, width)
        for rows in groups(x_ND, 3 * width):
            normed_RD, _, _ = norm_rows(x_ND[rows], scale_D, shift_D, ctx.kind)
            for part, out in zip(parts, made, strict=True):
                out_RO = out[rows] if packing is None else room.of(0, rows)
                torch.addmm(biases_O[part], normed_RD, weights_OD[part].T, out=out_RO)
                if packing is not None:
                    out.index_copy_(0, packing.place_N[rows], out_RO)
        return made

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x_ND, scale_D, shift_D, weight, bias = ctx.saved_tensors
        packing: Packing | None = ctx.packing
        width = x_ND.shape[1]
        found = [(part, gradient) for part, gradient in zip(ctx.parts, gradients, strict=True) if gradient is not None]
        weights_OD = torch.split(weight.to(ctx.kind), width)
        wants_x, wants_scale, wants_shift, wants_weight, wants_bias = ctx.needs_input_grad[:5]
        wants_norm = wants_x or wants_scale or wants_shift
        norm = NormGradients(x_ND, scale_D, shift_D) if wants_norm else None
        weight_grad = to_fill(weight, x_ND, whole=len(found) * width == len(weight)) if wants_weight else None
        bias_grad = torch.zeros_like(bias) if wants_bias else None
        room = None if packing is None else Room(x_ND, 3 * width, ctx.kind, width)
        for rows in groups(x_ND, 3 * width):
            normed_RD, mean, rstd = norm_rows(x_ND[rows], scale_D, shift_D, ctx.kind)
            back_RD: Tensor | None = None
            for part, gradient in found:
                gradient_RO = _tokens(gradient, rows, packing, room)
                columns = slice(part * width, (part + 1) * width)
                if bias_grad is not None:
                    bias_grad[columns] += gradient_RO.sum(0)
                if weight_grad is not None:
                    add_product(weight_grad[columns], gradient_RO.T, normed_RD, rows)
                if norm is not None:
                    # The sum over parts, in the first part's memory.
                    back_RD = (
                        gradient_RO @ weights_OD[part]
                        if back_RD is None
                        else back_RD.addmm_(gradient_RO, weights_OD[part])
                    )
            if norm is not None and back_RD is not None:
                norm.add(rows, back_RD, mean, rstd)
        if norm is None:
            return None, None, None, weight_grad, bias_grad, None, None
        return norm.x_ND, norm.scale_D, norm.shift_D, weight_grad, bias_grad, None, None


class _AddProjection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, mixed_MD: Tensor, weight: Tensor, bias: Tensor, packing: Packing | None
    ) -> Tensor:
        ctx.save_for_backward(mixed_MD, weight)
        ctx.packing = packing
        kind, width = mixed_MD.dtype, mixed_MD.shape[1]
        narrow = weight.to(kind).T
        out_ND = x_ND + bias
        room = None if packing is None else Room(out_ND, 3 * width, kind, width)
        for rows in groups(out_ND, 3 * width):
            add_product(out_ND[rows], _tokens(mixed_MD, rows, packing, room), narrow)
        return out_ND

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_ND,) = gradients
        mixed_MD, weight = ctx.saved_tensors
        packing: Packing | None = ctx.packing
        kind, width = mixed_MD.dtype, mixed_MD.shape[1]
        _, wants_mixed, wants_weight, wants_bias = ctx.needs_input_grad[:4]
        wide = weight.to(kind)
        mixed_grad = weight_grad = None
        if wants_mixed:
            mixed_grad = torch.empty_like(mixed_MD) if packing is None else torch.zeros_like(mixed_MD)
        if wants_weight:
            weight_grad = to_fill(weight, gradient_ND)
        room = None if packing is None else Room(gradient_ND, 3 * width, kind, width)
        for rows in groups(gradient_ND, 3 * width):
            gradient_RO = gradient_ND[rows].to(kind)
            if weight_grad is not None:
                add_product(weight_grad, gradient_RO.T, _tokens(mixed_MD, rows, packing, room), rows)
            if mixed_grad is None:
                continue
            if packing is None or room is None:
                torch.mm(gradient_RO, wide, out=mixed_grad[rows])
            else:
                back_RD = torch.mm(gradient_RO, wide, out=room.of(0, rows))
                mixed_grad.index_copy_(0, packing.place_N[rows], back_RD)
        bias_grad = gradient_ND.sum(0).to(weight.dtype) if wants_bias else None
        return gradient_ND, mixed_grad, weight_grad, bias_grad, None


def _tokens(x_MD: Tensor, rows: slice, packing: Packing | None, room: Room | None) -> Tensor:
    """A group's tokens out of rows that may still have their padding, (R, D)."""
    if packing is None or room is None:
        return x_MD[rows]
    found: Tensor = torch.index_select(x_MD, 0, packing.place_N[rows], out=room.of(0, rows))
    return found


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, before_BPD: Tensor, behind_BQD: Tensor) -> tuple[Tensor, Tensor]:
        ctx.first = before_BPD.shape[1]
        ctx.set_materialize_grads(False)
        whole_BSD = torch.cat([before_BPD, behind_BQD], dim=1)
        return whole_BSD, whole_BSD[:, : ctx.first]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        whole_BSD, first_BPD = gradients
        if whole_BSD is None:
            return first_BPD, None
        before_BPD = whole_BSD[:, : ctx.first]
        return before_BPD if first_BPD is None else before_BPD + first_BPD, whole_BSD[:, ctx.first :]


class _NormMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        scale_D: Tensor,
        shift_D: Tensor,
        wide_FD: Tensor,
        wide_F: Tensor,
        narrow_DF: Tensor,
        narrow_D: Tensor,
        gelu: Gelu,
    ) -> Tensor:
        kind = kind_of(x_ND, wide_FD)
        out_ND = x_ND.new_empty(x_ND.shape, dtype=torch.promote_types(x_ND.dtype, kind))
        wide, bias, narrow = wide_FD.to(kind), wide_F.to(kind), narrow_DF.to(kind)
        room = Room(x_ND, len(wide), kind, len(wide))
        for rows in groups(x_ND, len(wide)):
            normed_RD, _, _ = norm_rows(x_ND[rows], scale_D, shift_D, kind)
            hidden_RF = torch.addmm(bias, normed_RD, wide.T, out=room.of(0, rows))
            active_RF = apply_gelu(hidden_RF, gelu, hidden_RF)
            out_RD = torch.add(x_ND[rows], narrow_D, out=out_ND[rows])
            add_product(out_RD, active_RF, narrow.T)
        ctx.save_for_backward(x_ND, scale_D, shift_D, wide_FD, wide_F, narrow_DF)
        ctx.gelu, ctx.kind = gelu, kind
        return out_ND

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (out_grad_ND,) = gradients
        x_ND, scale_D, shift_D, wide_FD, wide_F, narrow_DF = ctx.saved_tensors
        kind = ctx.kind
        wants_x, wants_scale, wants_shift, wants_wide, wants_wide_bias, wants_narrow, wants_narrow_bias = (
            ctx.needs_input_grad[:7]
        )
        wide, bias, narrow = wide_FD.to(kind), wide_F.to(kind), narrow_DF.to(kind)
        wants_norm = wants_x or wants_scale or wants_shift
        norm = NormGradients(x_ND, scale_D, shift_D) if wants_norm else None
        wide_grad = to_fill(wide_FD, x_ND) if wants_wide else None
        wide_bias_grad = torch.zeros_like(wide_F) if wants_wide_bias else None
        narrow_grad = to_fill(narrow_DF, x_ND) if wants_narrow else None
        narrow_bias_grad = out_grad_ND.sum(0).to(wide_F.dtype) if wants_narrow_bias else None
        room = Room(x_ND, len(wide), kind, len(wide), places=3)
        for rows in groups(x_ND, len(wide)):
            normed_RD, mean, rstd = norm_rows(x_ND[rows], scale_D, shift_D, kind)
            gradient_RD = out_grad_ND[rows].to(kind)
            hidden_RF = torch.addmm(bias, normed_RD, wide.T, out=room.of(2, rows))
            if narrow_grad is not None:
                add_product(narrow_grad, gradient_RD.T, apply_gelu(hidden_RF, ctx.gelu, room.of(0, rows)), rows)
            back_RF = torch.mm(gradient_RD, narrow, out=room.of(1, rows))
            torch.ops.aten.gelu_backward.grad_input(back_RF, hidden_RF, approximate=ctx.gelu, grad_input=back_RF)
            if wide_bias_grad is not None:
                wide_bias_grad += back_RF.sum(0)
            if wide_grad is not None:
                add_product(wide_grad, back_RF.T, normed_RD, rows)
            if norm is not None:
                norm.add(rows, back_RF @ wide, mean, rstd)
        if norm is None:
            return None, None, None, wide_grad, wide_bias_grad, narrow_grad, narrow_bias_grad, None
        if wants_x:
            norm.x_ND += out_grad_ND
        return (
            norm.x_ND,
            norm.scale_D,
            norm.shift_D,
            wide_grad,
            wide_bias_grad,
            narrow_grad,
            narrow_bias_grad,
            None,
        )
