"""Captioner: predicts the whole synthetic caption at once, from image and web caption. CLIPS paper, section 3.

Earlier words are never inputs. Learnable queries replace the shifted caption, and the causal mask lets query i attend to the
image, the web caption and the queries up to i. Queries after the target of a row are therefore not computed, and the last block
is computed at targets only. Hidden PAD of web captions is not computed either.

With `inputs: tokens` it is CoCa's captioner: the image is the prefix, and each position reads the preceding token (teacher
forcing) plus a learned position. Mask, blocks, norm and head are the same.

Shapes: B batch, P image tokens, S web caption tokens, Q queries, M computed queries, C chosen positions, D width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from clips_pipeline.models.blocks import Block, blocks_of, run
from clips_pipeline.models.fused.tiling import compute_dtype
from clips_pipeline.models.precision import FullLinear, FullNorm, stream_dtype, widen
from clips_pipeline.models.rows.attention import PackedPrefixRows, PrefixRows
from clips_pipeline.models.rows.layout import CaptionRows
from clips_pipeline.models.rows.masks import prefix_causal_mask
from clips_pipeline.models.rows.packing import Packing, prefix_packing
from clips_pipeline.models.sizes import CaptionerConfig


class Captioner(nn.Module):
    """Projections of both conditions, learnable queries, prefix-causal blocks, norm and an untied head.

    `forward` does not apply the head: the caption loss multiplies by `head.weight` (V, D) in chunks.

    Args:
        config: dimensions and inputs.
        image_width: width of the image tokens.
        text_width: width of the web caption tokens.
    """

    halves_stream: bool = False

    def __init__(self, config: CaptionerConfig, image_width: int, text_width: int) -> None:
        super().__init__()
        self.config = config
        self.image_projection = FullLinear(image_width, config.width)
        reads_tokens = config.inputs == "tokens"
        self.text_projection = None if reads_tokens else FullLinear(text_width, config.width)
        self.token_embedding = nn.Embedding(config.vocab_size, config.width) if reads_tokens else None
        self.queries_QD = nn.Parameter(torch.empty(config.queries, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads, "tanh") for _ in range(config.depth))
        self.norm = FullNorm(config.width)
        self.head = FullLinear(config.width, config.vocab_size)

    def forward(
        self,
        image_BPD: Tensor,
        web_BSD: Tensor | None,
        rows: CaptionRows,
        web: Packing | None = None,
        previous_ids_BQ: Tensor | None = None,
    ) -> Tensor:
        """Return the normalized hidden state (C, D) at the chosen query positions, row-major.

        Args:
            image_BPD: (B, P, image width) image tokens.
            web_BSD: (B, S - 1, text width) tokens of the web caption, without [CLS]; None with `inputs: tokens`.
            rows: which queries are computed, and which are chosen.
            web: packing of the web captions in (B, S), if their padding is hidden.
            previous_ids_BQ: (B, Q') the token before each position, with `inputs: tokens` only.

        Raises:
            ValueError: more positions than there are queries.
        """
        used = rows.packing.keep_BS.shape[1]
        if used > self.config.queries:
            raise ValueError(
                f"{used} target positions for {self.config.queries} queries: shorten targets or raise captioner.queries"
            )
        prefix: Tensor = self.image_projection(image_BPD)
        if self.text_projection is not None:
            prefix = torch.cat([prefix, self.text_projection(web_BSD)], dim=1)
        prefix = prefix.to(stream_dtype(self, self.queries_QD))
        packing = None if web is None else prefix_packing(web, image_BPD.shape[1])
        blocks = blocks_of(self.blocks)
        if all(block.is_fused(prefix.flatten(0, 1)) for block in blocks):
            hidden_CD = self._fused(blocks, prefix, packing, rows, previous_ids_BQ)
        else:
            hidden_CD = self._plain(blocks, prefix, packing, rows, previous_ids_BQ)
        normed_CD: Tensor = self.norm(hidden_CD)
        return normed_CD

    def _plain(
        self,
        blocks: list[Block],
        prefix_BSD: Tensor,
        packing: Packing | None,
        rows: CaptionRows,
        previous_ids_BQ: Tensor | None,
    ) -> Tensor:
        """Run the blocks on prefix and queries in one tensor: padded if the prefixes are equally long, else packed."""
        batch, used = rows.packing.keep_BS.shape
        layout: PrefixRows | PackedPrefixRows
        if packing is None:
            # Queries after the last target of a row are computed and not read: rows of equal shape reach the fastest kernels.
            index_M = torch.arange(batch * used, device=prefix_BSD.device)
            queries = self._queries(index_M, used, previous_ids_BQ).view(batch, used, -1)
            x, layout = torch.cat([prefix_BSD, queries], dim=1), PrefixRows(prefix_BSD.shape[1])
            chosen_C = rows.chosen.index_N
        else:
            queries = self._queries(rows.packing.index_N, used, previous_ids_BQ)
            x, layout = torch.cat([packing.pack(prefix_BSD), queries]), PackedPrefixRows.of(packing, rows.packing)
            chosen_C = rows.packing.indices().flatten().index_select(0, rows.chosen.index_N)
        for block in blocks[:-1]:
            x = run(block, x, layout)
        tail = run(blocks[-1].tail, x, layout)
        return tail.reshape(-1, tail.shape[-1]).index_select(0, chosen_C)

    def _fused(
        self,
        blocks: list[Block],
        prefix: Tensor,
        prefix_packing: Packing | None,
        rows: CaptionRows,
        previous_ids_BQ: Tensor | None,
    ) -> Tensor:
        """Run the blocks on separate tensors of prefix and queries (`fused.block`)."""
        length, used = prefix.shape[1], rows.packing.keep_BS.shape[1]
        if prefix_packing is not None:
            prefix = prefix_packing.pack(prefix)
        queries_MD = self._queries(rows.packing.index_N, used, previous_ids_BQ)
        dtype = compute_dtype(queries_MD, blocks[-1].attn.in_proj.weight)
        mask = prefix_causal_mask(length, prefix_packing, rows.packing, dtype)
        for block in blocks[:-1]:
            prefix, queries_MD = block.prefix_causal(prefix, queries_MD, prefix_packing, rows.packing, mask)
        return blocks[-1].prefix_causal_chosen(prefix, queries_MD, prefix_packing, rows.packing, mask, rows.chosen)

    def _queries(self, index_M: Tensor, used: int, previous_ids_BQ: Tensor | None) -> Tensor:
        """Return the inputs (M, D) of the queries at flat positions of (B, Q)."""
        dtype = stream_dtype(self, self.queries_QD)
        queries_MD = functional.embedding(index_M % used, self.queries_QD)
        if self.token_embedding is None:
            return queries_MD.to(dtype)
        assert previous_ids_BQ is not None  # noqa: S101  (the model passes them)
        ids_M = previous_ids_BQ.flatten().index_select(0, index_M)
        return (widen(queries_MD) + widen(self.token_embedding(ids_M))).to(dtype)
