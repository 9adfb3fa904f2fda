"""A transformer block in fused functions: the results of `blocks.Block`, faster on a CPU and with less memory.

Shapes: B batch, S sequence, P prefix, Q queries, N tokens, M computed queries, C chosen queries, D width, H heads, K width of a
head; T is either (B, S) or N.
"""

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional

from clips_pipeline.models.fused.mlp import norm_mlp
from clips_pipeline.models.fused.projections import add_projection, joined_projections, norm_projections
from clips_pipeline.models.fused.tiling import Gelu
from clips_pipeline.models.rows.masks import key_mask
from clips_pipeline.models.rows.packing import Packing

_QUERIES, _KEYS, _VALUES = range(3)


class _Attention(Protocol):
    heads: int
    in_proj: nn.Linear
    out_proj: nn.Linear


class _Mlp(Protocol):
    gelu: Gelu
    c_fc: nn.Linear
    c_proj: nn.Linear


class BlockParts(Protocol):
    """The parts of a block that are read here."""

    keeps_hidden: bool

    @property
    def ln_1(self) -> nn.LayerNorm:
        """Norm before attention."""

    @property
    def ln_2(self) -> nn.LayerNorm:
        """Norm before the MLP."""

    @property
    def attn(self) -> _Attention:
        """Its attention."""

    @property
    def mlp(self) -> _Mlp:
        """Its MLP."""


def forward(block: BlockParts, x: Tensor, packing: Packing | None) -> Tensor:
    """Let every token attend to all tokens of its row, (T, D) -> (T, D)."""
    q, k, v = norm_projections(x, block.ln_1, block.attn.in_proj, (_QUERIES, _KEYS, _VALUES), packing)
    return _mlp(block, _attend(block, x, (q, k, v), key_mask(packing), packing))


def last(block: BlockParts, x: Tensor, packing: Packing | None) -> Tensor:
    """Compute `forward` for the last token of each row only, (T, D) -> (B, D)."""
    last_BD = x[:, -1] if packing is None else x.index_select(0, packing.last_token())
    last_B1D = last_BD[:, None]
    (q_B1D,) = norm_projections(last_B1D, block.ln_1, block.attn.in_proj, (_QUERIES,), None)
    k, v = norm_projections(x, block.ln_1, block.attn.in_proj, (_KEYS, _VALUES), packing)
    return _mlp(block, _attend(block, last_B1D, (q_B1D, k, v), key_mask(packing), None)).squeeze(1)


def prefix_causal(
    block: BlockParts,
    prefix: Tensor,
    queries_MD: Tensor,
    prefix_packing: Packing | None,
    packing: Packing,
    mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """Apply the block to prefix and queries of the captioner, without a dense (P + Q, P + Q) mask.

    Prefix tokens attend to each other only. Each query attends to the prefix, itself and the queries before it.

    Args:
        block: the block.
        prefix: (T, D), image and web caption.
        queries_MD: the queries.
        prefix_packing: packing of the prefix; None without padding.
        packing: packing of the queries in (B, Q).
        mask: `prefix_causal_mask` of both.

    Returns:
        Updated (prefix, queries).
    """
    q, own_q, all_k, all_v = joined_projections(
        prefix, queries_MD, block.ln_1, block.attn.in_proj, prefix_packing, packing
    )
    k, v = (part[:, : q.shape[1]] for part in (all_k, all_v))
    prefix = _mlp(block, _attend(block, prefix, (q, k, v), key_mask(prefix_packing), prefix_packing))
    return prefix, _mlp(block, _attend(block, queries_MD, (own_q, all_k, all_v), mask, packing))


def prefix_causal_chosen(
    block: BlockParts,
    prefix: Tensor,
    queries_MD: Tensor,
    prefix_packing: Packing | None,
    packing: Packing,
    mask: Tensor,
    chosen: Packing,
) -> Tensor:
    """Compute `prefix_causal` for the chosen queries only.

    Args:
        block: the block.
        prefix: as in `prefix_causal`.
        queries_MD: as in `prefix_causal`.
        prefix_packing: as in `prefix_causal`.
        packing: as in `prefix_causal`.
        mask: as in `prefix_causal`.
        chosen: packing of the chosen queries in (B, Q), which must be in `packing`.

    Returns:
        The chosen queries (C, D), row-major.
    """
    chosen_CD = queries_MD.index_select(0, packing.indices().flatten().index_select(0, chosen.index_N))
    (q_BQD,) = norm_projections(chosen_CD, block.ln_1, block.attn.in_proj, (_QUERIES,), chosen)
    k_BSD, v_BSD = joined_projections(
        prefix, queries_MD, block.ln_1, block.attn.in_proj, prefix_packing, packing, queries=False
    )
    return _mlp(block, _attend(block, chosen_CD, (q_BQD, k_BSD, v_BSD), mask, chosen))


def _attend(
    block: BlockParts, x: Tensor, projected: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, packing: Packing | None
) -> Tensor:
    """Add the attention output to `x`, (T, D) -> (T, D).

    Args:
        block: the block.
        x: rows.
        projected: queries of the rows, keys and values, padded, (B, S, D) each.
        mask: boolean (True where a query may attend to a key) or additive, broadcast to (B, H, S, S); None is everywhere.
        packing: packing of `x`.
    """
    heads = block.attn.heads
    q_BHSK, k_BHSK, v_BHSK = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in projected)
    y_BHSK = functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=mask)
    return add_projection(x, y_BHSK.transpose(1, 2).flatten(2), block.attn.out_proj, packing)


def _mlp(block: BlockParts, x: Tensor) -> Tensor:
    mlp = block.mlp
    return norm_mlp(x, block.ln_2, mlp.c_fc, mlp.c_proj, mlp.gelu, keep_hidden=block.keeps_hidden)
