"""Transformer block of both towers and of the captioner: pre-norm self-attention, then a pre-norm MLP, in plain PyTorch.

On a CPU the same mathematics runs in the fused functions of `models.fused`, unless something hangs on the modules inside a block: a
hook, an adapter such as LoRA, a parametrization. Both give the same results (`tests/unit/models/test_implementations.py`).

Tokens are rows (B, S, D), or packed (N, D) with a `Packing`; T below is either (B, S) or N. `models.rows.attention` has the
arrangements.

Shapes: B batch, S sequence, P prefix, Q queries, N tokens, M tokens of the tail, C chosen queries, D width, H heads.
"""

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from clips_pipeline.models.fused import block as fused
from clips_pipeline.models.fused import choice
from clips_pipeline.models.fused.tiling import Gelu
from clips_pipeline.models.precision import BlockNorm
from clips_pipeline.models.rows import attention
from clips_pipeline.models.rows.attention import Rows
from clips_pipeline.models.rows.packing import Packing
from clips_pipeline.models.sizes import MLP_RATIO

Implementation = Literal["auto", "plain"]
COMPUTING_METHODS = ("tail", "prefix_causal", "prefix_causal_chosen")
"""Methods of a block besides `forward` that compute with its weights, which FSDP2 gathers for them."""


class Attention(nn.Module):
    """Multi-head self-attention; `in_proj` computes queries, keys and values in one product.

    Args:
        width: D.
        heads: H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rows: Rows = None) -> Tensor:
        """Let all tokens attend, (T, D) -> (T, D)."""
        q, k, v = self._heads(self.in_proj(x), 3)
        mixed: Tensor = self.out_proj(attention.attend(q, k, v, rows).flatten(-2))
        return mixed

    def tail(self, x: Tensor, rows: Rows = None) -> Tensor:
        """Compute `forward` at the tail of the rows only (`attention.tail`)."""
        own = attention.tail(x, rows)
        linear = self.in_proj
        if choice.is_untouched(linear, nn.Linear):
            width = own.shape[-1]
            q = functional.linear(own, linear.weight[:width], linear.bias[:width])
            kv = functional.linear(x, linear.weight[width:], linear.bias[width:])
        else:
            # A hook or an adapter sees one call with all tokens.
            whole = linear(x)
            q, kv = attention.tail(whole[..., : own.shape[-1]], rows), whole[..., own.shape[-1] :]
        (q,), (k, v) = self._heads(q, 1), self._heads(kv, 2)
        mixed: Tensor = self.out_proj(attention.attend_tail(q, k, v, rows).flatten(-2))
        return mixed

    def _heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (..., parts * D) into `parts` views (..., H, K)."""
        return projected.view(*projected.shape[:-1], parts, self.heads, -1).unbind(-3)


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, gelu: Gelu) -> None:
        super().__init__()
        self.gelu = gelu
        self.c_fc = nn.Linear(width, MLP_RATIO * width)
        self.c_proj = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        output: Tensor = self.c_proj(functional.gelu(self.c_fc(x), approximate=self.gelu))
        return output


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        width: D.
        heads: H.
        gelu: which GELU the MLP uses.
    """

    implementation: Implementation = "auto"
    """"plain" never uses the fused functions; see `use_implementation`."""
    recomputes: bool = False
    """Whether the block saves its input only and runs again in the backward pass."""
    keeps_hidden: bool = False
    """Whether the fused MLP saves its hidden layer, instead of computing it again in the backward pass."""

    def __init__(self, width: int, heads: int, gelu: Gelu) -> None:
        super().__init__()
        self.ln_1 = BlockNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = BlockNorm(width)
        self.mlp = Mlp(width, gelu)

    def forward(self, x: Tensor, rows: Rows = None) -> Tensor:
        """Let every token attend to the tokens of its row that `rows` lets it see, (T, D) -> (T, D)."""
        if (rows is None or isinstance(rows, Packing)) and self.is_fused(x):
            return fused.forward(self, x, rows)
        x = x + self.attn(self.ln_1(x), rows)
        return x + cast(Tensor, self.mlp(self.ln_2(x)))

    def tail(self, x: Tensor, rows: Rows = None) -> Tensor:
        """Compute `forward` at the tail of the rows only: (B, D) for last tokens, (B, Q, D) or (M, D) for queries."""
        single = rows is None or isinstance(rows, Packing)
        if (rows is None or isinstance(rows, Packing)) and self.is_fused(x):
            return fused.last(self, x, rows)
        own: Tensor = attention.tail(x, rows) + self.attn.tail(self.ln_1(x), rows)
        own = own + cast(Tensor, self.mlp(self.ln_2(own)))
        return own.squeeze(1) if single and own.dim() == 3 else own

    def prefix_causal(
        self, prefix: Tensor, queries_MD: Tensor, prefix_packing: Packing | None, packing: Packing, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply the block to separate tensors of prefix and queries; see `fused.block.prefix_causal`."""
        return fused.prefix_causal(self, prefix, queries_MD, prefix_packing, packing, mask)

    def prefix_causal_chosen(
        self,
        prefix: Tensor,
        queries_MD: Tensor,
        prefix_packing: Packing | None,
        packing: Packing,
        mask: Tensor,
        chosen: Packing,
    ) -> Tensor:
        """Compute `prefix_causal` for the chosen queries only; see `fused.block.prefix_causal_chosen`."""
        return fused.prefix_causal_chosen(self, prefix, queries_MD, prefix_packing, packing, mask, chosen)

    def is_fused(self, x: Tensor) -> bool:
        """Return whether tokens like these run in the fused functions."""
        if self.implementation != "auto" or not choice.takes(x):
            return False
        attn, mlp = self.attn, self.mlp
        built_as: tuple[tuple[nn.Module, type[nn.Module]], ...] = (
            (self.ln_1, BlockNorm),
            (attn, Attention),
            (self.ln_2, BlockNorm),
            (mlp, Mlp),
            *((linear, nn.Linear) for linear in (attn.in_proj, attn.out_proj, mlp.c_fc, mlp.c_proj)),
        )
        return all(choice.is_untouched(*part) for part in built_as)


def use_implementation(model: nn.Module, implementation: Implementation) -> None:
    """Choose the implementation of all blocks of `model`: "auto" goes by the device, "plain" is PyTorch's modules everywhere."""
    for block in blocks_of(model):
        block.implementation = implementation


def recompute_blocks(model: nn.Module, recomputes: bool = True) -> None:
    """Let all blocks of `model` save their input only, and run again in the backward pass."""
    for block in blocks_of(model):
        block.recomputes = recomputes


def keep_hidden_layers(model: nn.Module, keeps: bool = True) -> None:
    """Let the fused MLPs of `model` save their hidden layers: more memory, and one product in ten fewer."""
    for block in blocks_of(model):
        block.keeps_hidden = keeps


def blocks_of(model: nn.Module) -> list[Block]:
    """Return all blocks of a model."""
    return [module for module in model.modules() if isinstance(module, Block)]


def run(function: Callable[..., Tensor], x: Tensor, rows: Rows = None) -> Tensor:
    """Call `forward` or `tail` of a block, and have it recomputed in the backward pass if the block is set to that."""
    block = getattr(function, "__self__", function)
    if not (isinstance(block, Block) and block.recomputes and torch.is_grad_enabled()):
        return function(x, rows)
    # Blocks use no random numbers.
    return checkpoint(function, x, rows, use_reentrant=False, preserve_rng_state=False)
