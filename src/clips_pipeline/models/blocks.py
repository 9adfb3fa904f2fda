"""The transformer block of both towers and of the captioner: pre-norm self-attention, then pre-norm MLP.

Rows come with their padding, (B, S, D), or as their tokens alone, (N, D), together with a `Packing`. T below is either.

Shapes: B batch, S sequence, P prefix, Q queries, N tokens, M queries that are there, C chosen ones of them, D width, H heads,
K width of a head.
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


class Attention(nn.Module):
    """Multi-head attention through fused kernels; `in_proj` makes queries, keys and values side by side."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, q_BSD: Tensor, k_BSD: Tensor, v_BSD: Tensor, mask: Tensor | None, packing: Packing | None
    ) -> Tensor:
        """`x` and what its tokens see, (T, D) -> (T, D).

        Args:
            x: rows.
            q_BSD: their queries, with padding.
            k_BSD: keys, of as many places as there are.
            v_BSD: values.
            mask: True where a query may look at a key, broadcast to (B, H, S, S); None is everywhere.
            packing: of `x`.
        """
        q_BHSK, k_BHSK, v_BHSK = (
            part.view(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in (q_BSD, k_BSD, v_BSD)
        )
        y_BHSK = functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=mask)
        y_BSD = y_BHSK.transpose(1, 2).flatten(2)
        if not torch.compiler.is_compiling():
            return add_projection(x, y_BSD, self.out_proj, packing)
        projected: Tensor = self.out_proj(y_BSD if packing is None else packing.pack(y_BSD))
        return x + projected


class Mlp(nn.Module):
    """The two linear layers of a block's second half, with a GELU between."""

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
        gelu: of the MLP.
    """

    def __init__(self, width: int, heads: int, gelu: Gelu) -> None:
        super().__init__()
        self.ln_1 = BlockNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = BlockNorm(width)
        self.mlp = Mlp(width, gelu)

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        """Every token attends to every token of its row, (T, D) -> (T, D)."""
        q, k, v = self._project(x, packing, _QUERIES, _KEYS, _VALUES)
        return self._mlp(self.attn(x, q, k, v, key_mask(packing), packing))

    def last(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        """The last token of each row of `forward` alone, (T, D) -> (B, D)."""
        asking_BD = x[:, -1] if packing is None else x.index_select(0, packing.last_token())
        asking_B1D = asking_BD[:, None]
        (q_B1D,) = self._project(asking_B1D, None, _QUERIES)
        k, v = self._project(x, packing, _KEYS, _VALUES)
        return self._mlp(self.attn(asking_B1D, q_B1D, k, v, key_mask(packing), None)).squeeze(1)

    def prefix_causal(
        self, prefix: Tensor, queries_MD: Tensor, prefix_packing: Packing | None, packing: Packing, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Captioner block, without a dense (P + Q, P + Q) mask.

        Tokens of the prefix see each other and nothing else. Each query sees the prefix, itself and the queries before it.

        Args:
            prefix: (T, D), image and web caption.
            queries_MD: the others.
            prefix_packing: of the prefix; None where all of it is there.
            packing: of the queries in (B, Q).
            mask: `prefix_causal_mask` of both.

        Returns:
            Both anew.
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
        """The queries of `prefix_causal` alone, and of them only the chosen: (C, D), row-major.

        Args:
            prefix: see there.
            queries_MD: see there.
            prefix_packing: see there.
            packing: see there.
            mask: see there.
            chosen_BQ: True at the queries wanted, which must be in `packing`.
        """
        chosen = Packing.of(chosen_BQ)
        asking_CD = queries_MD.index_select(0, packing.numbers().flatten().index_select(0, chosen.place_N))
        (q_BQD,) = self._project(asking_CD, chosen, _QUERIES)
        k_BSD, v_BSD = joined_projections(
            prefix, queries_MD, self.ln_1, self.attn.in_proj, prefix_packing, packing, queries=False
        )
        return self._mlp(self.attn(asking_CD, q_BQD, k_BSD, v_BSD, mask, chosen))

    def _project(self, x: Tensor, packing: Packing | None, *parts: int) -> tuple[Tensor, ...]:
        """Queries, keys or values, as many as asked for, (T, D) -> (B, S, D) each."""
        if torch.compiler.is_compiling():
            weights, biases = self.attn.in_proj.weight.chunk(3), self.attn.in_proj.bias.chunk(3)
            made = tuple(functional.linear(self.ln_1(x), weights[part], biases[part]) for part in parts)
            return made if packing is None else tuple(packing.unpack(part) for part in made)
        return norm_projections(x, self.ln_1, self.attn.in_proj, parts, packing)

    def _project_both(
        self, prefix: Tensor, queries_MD: Tensor, prefix_packing: Packing | None, packing: Packing
    ) -> tuple[Tensor, ...]:
        """Queries of either, and keys and values of both one behind the other."""
        if not torch.compiler.is_compiling():
            return joined_projections(prefix, queries_MD, self.ln_1, self.attn.in_proj, prefix_packing, packing)
        q, k, v = self._project(prefix, prefix_packing, _QUERIES, _KEYS, _VALUES)
        own_q, own_k, own_v = self._project(queries_MD, packing, _QUERIES, _KEYS, _VALUES)
        return q, own_q, torch.cat([k, own_k], dim=1), torch.cat([v, own_v], dim=1)

    def _mlp(self, x: Tensor) -> Tensor:
        mlp = self.mlp
        if not torch.compiler.is_compiling():
            return norm_mlp(x, self.ln_2, mlp.c_fc, mlp.c_proj, mlp.gelu)
        # A compiler fuses these by itself, and chooses what to keep.
        made: Tensor = mlp.c_proj(functional.gelu(mlp.c_fc(self.ln_2(x)), approximate=mlp.gelu))
        return x + made
