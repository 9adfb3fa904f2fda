"""Fused layer norm and MLP that saves only its input for the backward pass, or its hidden layer too.

Autograd would save the input of each layer: the normed rows, the hidden layer and its GELU, nine widths per token. Here the
backward pass computes them again. They never exist for all rows at once either: the rows are processed in tiles that fit the
processor's cache, and all tiles use the same memory. On an accelerator all rows are one tile. `projections.py` does the same for
the linear layers around attention.

The result is that of the plain modules, with sums in the order of the tiles; `tests/unit/models/fused/test_fused.py` compares
both.

Shapes: N tokens, R tokens of a tile, D width, F hidden width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clips_pipeline.models.fused.tiling import (
    Gelu,
    NormGradients,
    ScratchBuffer,
    add_product,
    apply_gelu,
    compute_dtype,
    gradient_buffer,
    norm_rows,
    row_tiles,
)


def norm_mlp(
    x: Tensor, norm: nn.LayerNorm, wide: nn.Linear, narrow: nn.Linear, gelu: Gelu, *, keep_hidden: bool = False
) -> Tensor:
    """Compute `x + narrow(gelu(wide(norm(x))))`, (..., D) -> (..., D).

    Args:
        x: rows.
        norm: layer norm.
        wide: linear layer, D to F.
        narrow: linear layer, F to D.
        gelu: which GELU.
        keep_hidden: save the hidden layer too (4 widths per token), so that the backward pass does not compute it again.
    """
    output: Tensor = _NormMlp.apply(
        x.reshape(-1, x.shape[-1]),
        norm.weight,
        norm.bias,
        wide.weight,
        wide.bias,
        narrow.weight,
        narrow.bias,
        gelu,
        keep_hidden and torch.is_grad_enabled(),
    )
    return output.view(x.shape)


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
        keep_hidden: bool,
    ) -> Tensor:
        dtype = compute_dtype(x_ND, wide_FD)
        out_ND = x_ND.new_empty(x_ND.shape, dtype=torch.promote_types(x_ND.dtype, dtype))
        wide, bias, narrow = wide_FD.to(dtype), wide_F.to(dtype), narrow_DF.to(dtype)
        hidden_NF = x_ND.new_empty(len(x_ND), len(wide), dtype=dtype) if keep_hidden else None
        scratch = ScratchBuffer(x_ND, len(wide), dtype, len(wide))
        for rows in row_tiles(x_ND, len(wide)):
            normed_RD, _, _ = norm_rows(x_ND[rows], scale_D, shift_D, dtype)
            into_RF = scratch.view(0, rows) if hidden_NF is None else hidden_NF[rows]
            hidden_RF = torch.addmm(bias, normed_RD, wide.T, out=into_RF)
            active_RF = apply_gelu(hidden_RF, gelu, scratch.view(0, rows))
            out_RD = torch.add(x_ND[rows], narrow_D, out=out_ND[rows])
            add_product(out_RD, active_RF, narrow.T)
        ctx.save_for_backward(x_ND, scale_D, shift_D, wide_FD, wide_F, narrow_DF, hidden_NF)
        ctx.gelu, ctx.dtype = gelu, dtype
        return out_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (out_grad_ND,) = gradients
        x_ND, scale_D, shift_D, wide_FD, wide_F, narrow_DF, hidden_NF = ctx.saved_tensors
        dtype = ctx.dtype
        wants_x, wants_scale, wants_shift, wants_wide, wants_wide_bias, wants_narrow, wants_narrow_bias = (
            ctx.needs_input_grad[:7]
        )
        wide, bias, narrow = wide_FD.to(dtype), wide_F.to(dtype), narrow_DF.to(dtype)
        wants_norm = wants_x or wants_scale or wants_shift
        norm = NormGradients(x_ND, scale_D, shift_D) if wants_norm else None
        wide_grad = gradient_buffer(wide_FD, x_ND) if wants_wide else None
        wide_bias_grad = torch.zeros_like(wide_F) if wants_wide_bias else None
        narrow_grad = gradient_buffer(narrow_DF, x_ND) if wants_narrow else None
        narrow_bias_grad = out_grad_ND.sum(0).to(wide_F.dtype) if wants_narrow_bias else None
        scratch = ScratchBuffer(x_ND, len(wide), dtype, len(wide), slots=2 if hidden_NF is not None else 3)
        for rows in row_tiles(x_ND, len(wide)):
            normed_RD, mean, rstd = norm_rows(x_ND[rows], scale_D, shift_D, dtype)
            gradient_RD = out_grad_ND[rows].to(dtype)
            hidden_RF = (
                torch.addmm(bias, normed_RD, wide.T, out=scratch.view(2, rows))
                if hidden_NF is None
                else hidden_NF[rows]
            )
            if narrow_grad is not None:
                add_product(
                    narrow_grad,
                    gradient_RD.T,
                    apply_gelu(hidden_RF, ctx.gelu, scratch.view(0, rows)),
                    first=rows.start == 0,
                )
            back_RF = torch.mm(gradient_RD, narrow, out=scratch.view(1, rows))
            torch.ops.aten.gelu_backward.grad_input(back_RF, hidden_RF, approximate=ctx.gelu, grad_input=back_RF)
            if wide_bias_grad is not None:
                wide_bias_grad += back_RF.sum(0)
            if wide_grad is not None:
                add_product(wide_grad, back_RF.T, normed_RD, first=rows.start == 0)
            if norm is not None:
                norm.add(rows, back_RF @ wide, mean, rstd)
        if norm is None:
            return None, None, None, wide_grad, wide_bias_grad, narrow_grad, narrow_bias_grad, None, None
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
            None,
        )
