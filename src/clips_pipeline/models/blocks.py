"""The transformer block of both towers and of the captioner: pre-norm self-attention, then pre-norm MLP.

Shapes: B batch, S sequence, P prefix, Q queries, N occupied and M chosen positions, D width, E three widths, H heads,
K width of a head.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from clips_pipeline.models.packing import Packing
from clips_pipeline.models.precision import BlockNorm
from clips_pipeline.models.recompute import linear_of
from clips_pipeline.models.sizes import MLP_RATIO

Gelu = Literal["none", "tanh"]
"""PyTorch's name of the GELU: "none" is exact (vision), "tanh" the approximation (text and captioner)."""


class Attention(nn.Module):
    """Multi-head self-attention through fused kernels, whole or in the captioner's two parts.

    The methods take what `in_proj` gives: queries, keys and values side by side, E = 3 D.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, qkv_BSE: Tensor) -> Tensor:
        """Attend from every position to every position, (B, S, E) -> (B, S, D)."""
        q_BHSK, k_BHSK, v_BHSK = self._split(qkv_BSE)
        return self._join(functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK))

    def packed(self, qkv_NE: Tensor, packing: Packing) -> Tensor:
        """Attend within each row from every token to every token, (N, E) -> (N, D)."""
        q_BHSK, k_BHSK, v_BHSK = self._split(packing.unpack(qkv_NE))
        mask = packing.keep_BS[:, None, None, :]
        y_BHSK = functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=mask)
        return self._packed_out(y_BHSK, packing)

    def prefix_causal(self, qkv_NE: Tensor, packing: Packing, prefix: int, keep_BP: Tensor | None = None) -> Tensor:
        """Attend as the captioner does, without a dense (S, S) mask: (N, E) -> (N, D).

        The first `prefix` positions see each other and nothing else. Each later one (a query) sees the prefix, itself
        and the queries before it.
        """
        q_BHSK, k_BHSK, v_BHSK = self._split(packing.unpack(qkv_NE))
        mask = None if keep_BP is None else keep_BP[:, None, None, :]
        prefix_BHPK = functional.scaled_dot_product_attention(
            q_BHSK[:, :, :prefix], k_BHSK[:, :, :prefix], v_BHSK[:, :, :prefix], attn_mask=mask
        )
        queries_BHQK = _causal_tail(q_BHSK[:, :, prefix:], k_BHSK, v_BHSK, keep_BP)
        return self._packed_out(torch.cat([prefix_BHPK, queries_BHQK], dim=2), packing)

    def chosen(
        self, x_ND: Tensor, packing: Packing, chosen_M: Tensor, chosen: Packing, keep_BP: Tensor | None = None
    ) -> Tensor:
        """The rows of `prefix_causal` at chosen queries alone, from the input of `in_proj`: (N, D) -> (M, D).

        Args:
            x_ND: all tokens.
            packing: of them in (B, S).
            chosen_M: their numbers within N.
            chosen: their places in (B, Q).
            keep_BP: as in `prefix_causal`.
        """
        width = x_ND.shape[-1]
        weight, bias = self.in_proj.weight, self.in_proj.bias
        q_BQD = chosen.unpack(functional.linear(x_ND.index_select(0, chosen_M), weight[:width], bias[:width]))
        k_BSD, v_BSD = packing.unpack(functional.linear(x_ND, weight[width:], bias[width:])).chunk(2, dim=-1)
        y_BHQK = _causal_tail(self._heads(q_BQD), self._heads(k_BSD), self._heads(v_BSD), keep_BP)
        return self._packed_out(y_BHQK, chosen)

    def _split(self, qkv_BSE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BSD, k_BSD, v_BSD = qkv_BSE.chunk(3, dim=-1)
        return self._heads(q_BSD), self._heads(k_BSD), self._heads(v_BSD)

    def _heads(self, x_BSD: Tensor) -> Tensor:
        batch, positions, width = x_BSD.shape
        return x_BSD.view(batch, positions, self.heads, width // self.heads).transpose(1, 2)

    def _packed_out(self, y_BHSK: Tensor, packing: Packing) -> Tensor:
        y_ND: Tensor = self.out_proj(packing.pack(y_BHSK.transpose(1, 2).flatten(2)))
        return y_ND

    def _join(self, x_BHSK: Tensor) -> Tensor:
        joined: Tensor = self.out_proj(x_BHSK.transpose(1, 2).flatten(2))
        return joined


def _causal_tail(q_BHQK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, keep_BP: Tensor | None) -> Tensor:
    """Attention of the last Q of S positions: query i sees keys up to its own place, less those that `keep_BP` hides.

    The mask is (Q, S), not (S, S). Fused kernels take it; their own causal flag starts from the other corner.
    """
    queries, keys = q_BHQK.shape[2], k_BHSK.shape[2]
    mask = torch.ones(queries, keys, dtype=torch.bool, device=q_BHQK.device).tril(keys - queries)
    if keep_BP is not None:
        keep_BS = functional.pad(keep_BP, (0, queries), value=True)
        mask = mask & keep_BS[:, None, None, :]
    return functional.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSK, attn_mask=mask)


class Mlp(nn.Module):
    """Two linear layers with a GELU between, (..., D) -> (..., D)."""

    def __init__(self, width: int, gelu: Gelu) -> None:
        super().__init__()
        self.gelu = gelu
        self.c_fc = nn.Linear(width, MLP_RATIO * width)
        self.c_proj = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to each position."""
        return self.narrow(self.c_fc(x))

    def narrow(self, hidden: Tensor) -> Tensor:
        """GELU and second layer, (..., 4 D) -> (..., D)."""
        return linear_of(self.activate, hidden, self.c_proj)

    def activate(self, hidden: Tensor) -> Tensor:
        """GELU alone."""
        return functional.gelu(hidden, approximate=self.gelu)


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        width: D.
        heads: H.
        gelu: of the MLP.
        remake_hidden: the MLP's hidden layer is not kept for the backward pass but made again: a third less memory, one
            matrix product in nine more.
    """

    def __init__(self, width: int, heads: int, gelu: Gelu, *, remake_hidden: bool = False) -> None:
        super().__init__()
        self.remake_hidden = remake_hidden
        self.ln_1 = BlockNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = BlockNorm(width)
        self.mlp = Mlp(width, gelu)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Bidirectional block, (B, S, D) -> (B, S, D)."""
        x_BSD = x_BSD + self.attn(self._qkv(x_BSD))
        return self._mlp(x_BSD)

    def packed(self, x_ND: Tensor, packing: Packing) -> Tensor:
        """The same on rows without their padding, (N, D) -> (N, D)."""
        x_ND = x_ND + self.attn.packed(self._qkv(x_ND), packing)
        return self._mlp(x_ND)

    def prefix_causal(self, x_ND: Tensor, packing: Packing, prefix: int, keep_BP: Tensor | None = None) -> Tensor:
        """Captioner block, (N, D) -> (N, D); see `Attention.prefix_causal`."""
        x_ND = x_ND + self.attn.prefix_causal(self._qkv(x_ND), packing, prefix, keep_BP)
        return self._mlp(x_ND)

    def prefix_causal_chosen(
        self, x_ND: Tensor, packing: Packing, chosen_BQ: Tensor, keep_BP: Tensor | None = None
    ) -> Tensor:
        """The captioner block at chosen query positions only, (N, D) -> (M, D).

        Args:
            x_ND: input of the block.
            packing: of it; the last places of each row are the queries.
            chosen_BQ: True at the M query positions wanted, which must be in `packing`; rows come out in row-major order.
            keep_BP: True where a prefix position may be attended; None means everywhere.
        """
        chosen = Packing.of(chosen_BQ)
        numbers_BS = packing.numbers()
        chosen_M = numbers_BS[:, -chosen_BQ.shape[1] :].flatten().index_select(0, chosen.place_N)
        y_MD = self.attn.chosen(self.ln_1(x_ND), packing, chosen_M, chosen, keep_BP)
        return self._mlp(x_ND.index_select(0, chosen_M) + y_MD)

    def _qkv(self, x: Tensor) -> Tensor:
        return linear_of(self.ln_1, x, self.attn.in_proj)

    def _mlp(self, x: Tensor) -> Tensor:
        if self.remake_hidden and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # Not `linear_of`, whose closures would keep what is to go.
            made: Tensor = checkpoint(
                lambda x: self.mlp.c_proj(self.mlp.activate(self.mlp.c_fc(self.ln_2(x)))),
                x,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            return x + made
        return x + self.mlp.narrow(linear_of(self.ln_2, x, self.mlp.c_fc))
