# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""Text tower: bidirectional transformer, pooled at the last position, which holds [CLS]. CLIPS paper, section 3.

Shapes: B batch, L context length, S positions in use (S <= L), N tokens that are not PAD, D width, E embedding.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from clips_pipeline.models.blocks import Block, run
from clips_pipeline.models.precision import FullLinear, FullNorm, stream_dtype, widen
from clips_pipeline.models.rows.layout import TextRows, check_length, text_rows
from clips_pipeline.models.rows.packing import Packing
from clips_pipeline.models.sizes import TextConfig


class TextOutput(NamedTuple):
    """Output of the tower.

    `tokens_BSD` (B, S - 1, D) are taken before the final norm, without the last position. `packing` are the tokens of (B, S) that
    are not PAD (other tokens are 0), or None if PAD is attended to. `pooled_BD` is (B, D); `feature_BE` (B, E) is not
    normalized.
    """

    tokens_BSD: Tensor
    packing: Packing | None
    pooled_BD: Tensor
    feature_BE: Tensor


class TextInput(NamedTuple):
    """Input of the first block: (B, L, D), or packed (N, D) if PAD is hidden and hence not computed."""

    x: Tensor
    packing: Packing | None


class TextTower(nn.Module):
    """Token and position embeddings, blocks without a causal mask, final norm, projection of the last position.

    Args:
        config: dimensions and padding.
        embed_dim: E.
    """

    halves_stream: bool = False

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions_LD = nn.Parameter(torch.empty(config.context_length, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads, "tanh") for _ in range(config.depth))
        self.norm = FullNorm(config.width)
        self.head = FullLinear(config.width, embed_dim)

    def forward(self, ids_BL: Tensor, rows: TextRows | None = None) -> TextOutput:
        """Encode rows of ids.

        Args:
            ids_BL: (B, L) rows that end in [CLS].
            rows: their layout under `padding: mask`; None computes it.

        Raises:
            ValueError: the rows do not have `context_length` ids.
        """
        return self.encode(self.embed((ids_BL, rows))[0])

    def feature(self, ids_BL: Tensor, rows: TextRows | None = None) -> Tensor:
        """Return `forward(...).feature_BE`, for which the last block is computed at [CLS] only.

        Raises:
            ValueError: as `forward`.
        """
        return self.pooled_feature(self.embed((ids_BL, rows))[0])

    def embed(self, *rows: tuple[Tensor, TextRows | None]) -> list[TextInput]:
        """Return the input of the blocks for each set of rows (ids and layout, as in `forward`).

        There is one lookup for all sets: the gradient of a lookup is as large as the embedding table.

        Raises:
            ValueError: as `forward`.
        """
        prepared = [self._prepare_rows(*row) for row in rows]
        tokens = functional.embedding(torch.cat([ids for ids, _, _ in prepared]), self.token_embedding.weight)
        dtype, inputs = stream_dtype(self, self.token_embedding.weight), []
        parts = torch.split(tokens, [len(ids) for ids, _, _ in prepared])
        for part, (_, positions, packing) in zip(parts, prepared, strict=True):
            x = part if packing is not None else part.view(-1, *self.positions_LD.shape)
            inputs.append(TextInput((widen(x) + widen(positions)).to(dtype), packing))
        return inputs

    def encode(self, rows: TextInput) -> TextOutput:
        """Compute `forward` after the embedding."""
        x, packing = self._run_inner_blocks(rows)
        last = self._last_block()
        if packing is None:
            x_BSD = run(last, x)
            return TextOutput(x_BSD[:, :-1], None, *self._pool(x_BSD[:, -1]))
        x_ND = run(last, x, packing)
        tokens_BSD = packing.unpack(x_ND)[:, :-1]
        return TextOutput(tokens_BSD, packing, *self._pool(x_ND.index_select(0, packing.last_token())))

    def pooled_feature(self, rows: TextInput) -> Tensor:
        """Compute `feature` after the embedding."""
        return self._pool(run(self._last_block().tail, *self._run_inner_blocks(rows)))[1]

    def _run_inner_blocks(self, rows: TextInput) -> TextInput:
        """Run all blocks except the last; return the input of the last."""
        x, packing = rows
        for block in self.blocks[:-1]:
            x = run(block, x, packing)
        return TextInput(x, packing)

    def _last_block(self) -> Block:
        block = self.blocks[-1]
        assert isinstance(block, Block)  # noqa: S101  (narrows the type of a ModuleList item)
        return block

    def _prepare_rows(self, ids_BL: Tensor, rows: TextRows | None) -> tuple[Tensor, Tensor, Packing | None]:
        """Return the ids to compute, flat; their position embeddings, (L, D) or (N, D); and their packing."""
        check_length(self.config, ids_BL)
        if self.config.padding == "attend":
            return ids_BL.flatten(), self.positions_LD, None
        found = text_rows(self.config, ids_BL) if rows is None else rows
        assert found is not None  # noqa: S101  (None is `padding: attend`)
        positions_ND = functional.embedding(found.source_N % self.config.context_length, self.positions_LD)
        return ids_BL.flatten().index_select(0, found.source_N), positions_ND, found.packing

    def _pool(self, last_BD: Tensor) -> tuple[Tensor, Tensor]:
        pooled_BD = self.norm(last_BD)
        return pooled_BD, self.head(pooled_BD)
