"""Transformer block of both towers and of the captioner: pre-norm self-attention, then a pre-norm MLP.

Rows are padded, (B, S, D), or packed, (N, D), with a `Packing`. T below is either (B, S) or N.

Shapes: B batch, S sequence, P prefix, Q queries, N tokens, M computed queries, C chosen queries, D width, H heads, K width of a
head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from clips_pipeline.models.attention_masks import key_mask
from clips_pipeline.models.fused.mlp import norm_mlp
from clips_pipeline.models.fused.packing import Packing
from clips_pipeline.models.fused.projections import add_projection, joined_projections, norm_projections
from clips_pipeline.models.fused.tiling import Gelu
from clips_pipeline.models.precision import BlockNorm
from clips_pipeline.models.sizes import MLP_RATIO

_QUERIES, _KEYS, _VALUES = range(3)

_FEW_ROWS = 200
"""Up to this many rows, inference is faster by PyTorch's own layers: calling the fused ones costs more than they save."""


class Attention(nn.Module):
    """Multi-head attention through fused kernels; `in_proj` computes queries, keys and values in one projection.

    Args:
        width: D.
        heads: H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, q_BSD: Tensor, k_BSD: Tensor, v_BSD: Tensor, mask: Tensor | None, packing: Packing | None
    ) -> Tensor:
        """Add the attention output to `x`, (T, D) -> (T, D).

        Args:
            x: rows.
            q_BSD: queries of the rows, padded.
            k_BSD: keys; their number of positions may differ from that of the queries.
            v_BSD: values of the keys.
            mask: boolean (True where a query may attend to a key) or additive, broadcast to (B, H, S, S); None is everywhere.
            packing: packing of `x`.
        """
        q_BHSK, k_BHSK, v_BHSK = (
            part.view(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in (q_BSD, k_BSD, v_BSD)
        )
        y_BHSK = functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=mask)
        y_BSD = y_BHSK.transpose(1, 2).flatten(2)
        if not by_layers(x):
            return add_projection(x, y_BSD, self.out_proj, packing)
        projected: Tensor = self.out_proj(y_BSD if packing is None else packing.pack(y_BSD))
        return x + projected


class Mlp(nn.Module):
    """The two linear layers of the MLP, with GELU between them."""

    def __init__(self, width: int, gelu: Gelu) -> None:
        super().__init__()
        self.gelu = gelu
        self.c_fc = nn.Linear(width, MLP_RATIO * width)
        self.c_proj = nn.Linear(MLP_RATIO * width, width)


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        width: D.
        heads: H.
        gelu: which GELU the MLP uses.
    """

    def __init__(self, width: int, heads: int, gelu: Gelu) -> None:
        super().__init__()
        self.ln_1 = BlockNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = BlockNorm(width)
        self.mlp = Mlp(width, gelu)

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        """Let every token attend to all tokens of its row, (T, D) -> (T, D)."""
        q, k, v = self._project(x, packing, _QUERIES, _KEYS, _VALUES)
        return self._mlp(self.attn(x, q, k, v, key_mask(packing), packing))

    def last(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        """Compute `forward` for the last token of each row only, (T, D) -> (B, D)."""
        last_BD = x[:, -1] if packing is None else x.index_select(0, packing.last_token())
        last_B1D = last_BD[:, None]
        (q_B1D,) = self._project(last_B1D, None, _QUERIES)
        k, v = self._project(x, packing, _KEYS, _VALUES)
        return self._mlp(self.attn(last_B1D, q_B1D, k, v, key_mask(packing), None)).squeeze(1)

    def prefix_causal(
        self, prefix: Tensor, queries_MD: Tensor, prefix_packing: Packing | None, packing: Packing, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply the block to prefix and queries of the captioner, without a dense (P + Q, P + Q) mask.

        Prefix tokens attend to each other only. Each query attends to the prefix, itself and the queries before it.

        Args:
            prefix: (T, D), image and web caption.
            queries_MD: the queries.
            prefix_packing: packing of the prefix; None without padding.
            packing: packing of the queries in (B, Q).
            mask: `prefix_causal_mask` of both.

        Returns:
            Updated (prefix, queries).
        """
        q, own_q, all_k, all_v = self._project_both(prefix, queries_MD, prefix_packing, packing)
        k, v = (part[:, : q.shape[1]] for part in (all_k, all_v))
        prefix = self._mlp(self.attn(prefix, q, k, v, key_mask(prefix_packing), prefix_packing))
        return prefix, self._mlp(self.attn(queries_MD, own_q, all_k, all_v, mask, packing))

    def prefix_causal_chosen(
        self,
        prefix: Tensor,
        queries_MD: Tensor,
        prefix_packing: Packing | None,
        packing: Packing,
        mask: Tensor,
        chosen_BQ: Tensor,
    ) -> Tensor:
        """Compute `prefix_causal` for the chosen queries only.

        Args:
            prefix: as in `prefix_causal`.
            queries_MD: as in `prefix_causal`.
            prefix_packing: as in `prefix_causal`.
            packing: as in `prefix_causal`.
            mask: as in `prefix_causal`.
            chosen_BQ: True at the chosen queries, which must be in `packing`.

        Returns:
            The chosen queries (C, D), row-major.
        """
        chosen = Packing.of(chosen_BQ)
        chosen_CD = queries_MD.index_select(0, packing.indices().flatten().index_select(0, chosen.index_N))
        (q_BQD,) = self._project(chosen_CD, chosen, _QUERIES)
        k_BSD, v_BSD = joined_projections(
            prefix, queries_MD, self.ln_1, self.attn.in_proj, prefix_packing, packing, queries=False
        )
        return self._mlp(self.attn(chosen_CD, q_BQD, k_BSD, v_BSD, mask, chosen))

    def _project(self, x: Tensor, packing: Packing | None, *parts: int) -> tuple[Tensor, ...]:
        """Return the requested parts of queries, keys and values, (T, D) -> (B, S, D) each."""
        if by_layers(x):
            normed, linear = self.ln_1(x), self.attn.in_proj
            if len(parts) == 3:
                projections = linear(normed).chunk(3, dim=-1)
            else:
                weights, biases = linear.weight.chunk(3), linear.bias.chunk(3)
                projections = tuple(functional.linear(normed, weights[part], biases[part]) for part in parts)
            return projections if packing is None else tuple(packing.unpack(part) for part in projections)
        return norm_projections(x, self.ln_1, self.attn.in_proj, parts, packing)

    def _project_both(
        self, prefix: Tensor, queries_MD: Tensor, prefix_packing: Packing | None, packing: Packing
    ) -> tuple[Tensor, ...]:
        """Return the queries of prefix and queries, then keys and values of both, joined."""
        if not torch.compiler.is_compiling():
            return joined_projections(prefix, queries_MD, self.ln_1, self.attn.in_proj, prefix_packing, packing)
        q, k, v = self._project(prefix, prefix_packing, _QUERIES, _KEYS, _VALUES)
        own_q, own_k, own_v = self._project(queries_MD, packing, _QUERIES, _KEYS, _VALUES)
        return q, own_q, torch.cat([k, own_k], dim=1), torch.cat([v, own_v], dim=1)

    def _mlp(self, x: Tensor) -> Tensor:
        mlp = self.mlp
        if not by_layers(x):
            return norm_mlp(x, self.ln_2, mlp.c_fc, mlp.c_proj, mlp.gelu)
        output: Tensor = mlp.c_proj(functional.gelu(mlp.c_fc(self.ln_2(x)), approximate=mlp.gelu))
        return x + output


def by_layers(x: Tensor) -> bool:
    """Return whether rows are computed by PyTorch's own layers instead of the fused ones: in a compiler, which fuses by itself
    and decides what to save, and for inference of a few rows.
    """
    if torch.compiler.is_compiling():
        return True
    return not torch.is_grad_enabled() and x.numel() <= _FEW_ROWS * x.shape[-1]
