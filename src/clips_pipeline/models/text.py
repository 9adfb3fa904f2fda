# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""The text tower: bidirectional, read out at the last position, where [CLS] stands. CLIPS paper, section 3.

Shapes: B batch, L context length, S positions in use (S <= L), N tokens that are not PAD, D width, E embedding.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from clips_pipeline.models.blocks import Block
from clips_pipeline.models.fused.packing import Packing
from clips_pipeline.models.precision import FullLinear, FullNorm, widen
from clips_pipeline.models.sizes import TextConfig


class TextOutput(NamedTuple):
    """What the tower gives.

    Tokens (B, S - 1, D) come before the final norm and without the last position; `keep_BS` (B, S - 1) is True where
    a token is not PAD (tokens are 0 elsewhere), or None where PAD counts like any other; pooled is (B, D), feature
    (B, E), not normalised.
    """

    tokens_BSD: Tensor
    keep_BS: Tensor | None
    pooled_BD: Tensor
    feature_BE: Tensor


class TextInput(NamedTuple):
    """What the first block reads: (B, L, D), or (N, D) where PAD is hidden, for then it need not be computed."""

    x: Tensor
    packing: Packing | None


class TextTower(nn.Module):
    """Token and position embeddings, blocks without a causal mask, final norm, projection of the last position."""

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions_LD = nn.Parameter(torch.empty(config.context_length, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads, "tanh") for _ in range(config.depth))
        self.norm = FullNorm(config.width)
        self.head = FullLinear(config.width, embed_dim)

    def body_length(self, ids_BL: Tensor) -> Tensor:
        """The scalar number of leading columns that hold every token but [CLS]; all later columns are PAD."""
        return last_true(ids_BL[:, :-1] != self.config.pad_id)

    def forward(self, ids_BL: Tensor, body: int | None = None) -> TextOutput:
        """Encode rows of ids.

        Args:
            ids_BL: (B, L) rows that end in [CLS].
            body: number of leading columns to compute under `padding: mask`, at least `body_length`; None finds it out.

        Raises:
            ValueError: rows are not L = `context_length` long.
        """
        return self.encode(self.embed((ids_BL, body))[0])

    def feature(self, ids_BL: Tensor, body: int | None = None) -> Tensor:
        """`forward(...).feature_BE` alone, for which the last block is computed at [CLS] only.

        Raises:
            ValueError: as `forward`.
        """
        return self.read_out(self.embed((ids_BL, body))[0])

    def embed(self, *rows: tuple[Tensor, int | None]) -> list[TextInput]:
        """Each set of rows (ids and body, as in `forward`) as the blocks read it.

        All look into the table at once: its gradient is as large as the table, and so is made once and not for each set.

        Raises:
            ValueError: as `forward`.
        """
        places = [self._places(*row) for row in rows]
        found = functional.embedding(torch.cat([ids for ids, _, _ in places]), self.token_embedding.weight)
        kind, made = self.token_embedding.weight.dtype, []
        parts = torch.split(found, [len(ids) for ids, _, _ in places])
        for part, (_, positions, packing) in zip(parts, places, strict=True):
            x = part if packing is not None else part.view(-1, *self.positions_LD.shape)
            made.append(TextInput((widen(x) + widen(positions)).to(kind), packing))
        return made

    def encode(self, rows: TextInput) -> TextOutput:
        """`forward` behind the embedding."""
        x, packing = self._before_last(rows)
        last = self._last_block()
        if packing is None:
            x_BSD = last(x)
            return TextOutput(x_BSD[:, :-1], None, *self._pool(x_BSD[:, -1]))
        x_ND = last(x, packing)
        tokens_BSD = packing.unpack(x_ND)[:, :-1]
        return TextOutput(tokens_BSD, packing.keep_BS[:, :-1], *self._pool(x_ND[packing.last_token()]))

    def read_out(self, rows: TextInput) -> Tensor:
        """`feature` behind the embedding."""
        return self._pool(self._last_block().last(*self._before_last(rows)))[1]

    def _before_last(self, rows: TextInput) -> TextInput:
        """Likewise, of the last block."""
        x, packing = rows
        for block in self.blocks[:-1]:
            x = block(x, packing)
        return TextInput(x, packing)

    def _last_block(self) -> Block:
        block = self.blocks[-1]
        assert isinstance(block, Block)  # noqa: S101  (narrows the type of a ModuleList item)
        return block

    def _places(self, ids_BL: Tensor, body: int | None) -> tuple[Tensor, Tensor, Packing | None]:
        """The ids that are computed, flat; their positions, (L, D) or (N, D); and where they stand."""
        length = self.config.context_length
        if ids_BL.shape[1] != length:
            raise ValueError(
                f"text rows have {ids_BL.shape[1]} ids, the model reads {length}: tokenise to text.context_length"
            )
        if self.config.padding == "attend":
            return ids_BL.flatten(), self.positions_LD, None
        body = int(self.body_length(ids_BL)) if body is None else body
        ids_BS = ids_BL
        positions_SD: Tensor = self.positions_LD
        if body < length - 1:
            # [CLS] keeps its place, the last.
            ids_BS = torch.cat([ids_BL[:, :body], ids_BL[:, -1:]], dim=1)
            positions_SD = torch.cat([self.positions_LD[:body], self.positions_LD[-1:]])
        packing = Packing.of(ids_BS != self.config.pad_id)
        position_N = packing.place_N % ids_BS.shape[1]
        return ids_BS.flatten()[packing.place_N], functional.embedding(position_N, positions_SD), packing

    def _pool(self, last_BD: Tensor) -> tuple[Tensor, Tensor]:
        pooled_BD = self.norm(last_BD)
        return pooled_BD, self.head(pooled_BD)


def last_true(flags_BS: Tensor) -> Tensor:
    """One more than the last column that is True in any row, as a scalar; 0 where none is."""
    columns = torch.arange(1, flags_BS.shape[1] + 1, device=flags_BS.device)
    return torch.where(flags_BS.any(dim=0), columns, 0).amax()
