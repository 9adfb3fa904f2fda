"""Captioner: predicts the whole synthetic caption at once, from image and web caption. CLIPS paper, section 3.

Earlier words are never inputs. Learnable queries replace the shifted caption, and the causal mask lets query i attend to the
image, the web caption and the queries up to i. Queries after the target of a row are therefore not computed, and the last block
is computed at targets only. Hidden PAD of web captions is not computed either.

With `inputs: tokens` it is CoCa's captioner: the image is the prefix, and each position reads the preceding token (teacher
forcing) plus a learned position. Mask, blocks, norm and head are the same.

Shapes: B batch, P image tokens, S web caption tokens, Q queries, M computed queries, N chosen positions, D width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from clips_pipeline.models.attention_masks import prefix_causal_mask
from clips_pipeline.models.blocks import Block
from clips_pipeline.models.fused.packing import Packing
from clips_pipeline.models.fused.tiling import compute_dtype
from clips_pipeline.models.precision import FullLinear, FullNorm, widen
from clips_pipeline.models.sizes import CaptionerConfig


class Captioner(nn.Module):
    """Projections of both conditions, learnable queries, prefix-causal blocks, norm and an untied head.

    `forward` does not apply the head: the caption loss multiplies by `head.weight` (V, D) in chunks.

    Args:
        config: dimensions and inputs.
        image_width: width of the image tokens.
        text_width: width of the web caption tokens.
    """

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
        chosen_BQ: Tensor,
        web_keep_BS: Tensor | None = None,
        previous_ids_BQ: Tensor | None = None,
    ) -> Tensor:
        """Return the normalized hidden state (N, D) at the chosen query positions, row-major.

        Args:
            image_BPD: (B, P, image width) image tokens.
            web_BSD: (B, S, text width) tokens of the web caption; None with `inputs: tokens`.
            chosen_BQ: (B, Q') bool, Q' <= queries: True where a prediction is needed. In each row, the queries up to the last
                chosen one are computed.
            web_keep_BS: (B, S) bool, True at web tokens that are not hidden padding; None hides nothing.
            previous_ids_BQ: (B, Q') the token before each position, with `inputs: tokens` only.

        Raises:
            ValueError: more positions than there are queries.
        """
        used = chosen_BQ.shape[1]
        if used > self.config.queries:
            raise ValueError(
                f"{used} target positions for {self.config.queries} queries: shorten targets or raise captioner.queries"
            )
        prefix: Tensor = self.image_projection(image_BPD)
        prefix_packing = None
        if self.text_projection is not None:
            prefix = torch.cat([prefix, self.text_projection(web_BSD)], dim=1)
        prefix = prefix.to(self.queries_QD.dtype)
        length = prefix.shape[1]
        if web_keep_BS is not None:
            prefix_packing = Packing.of(functional.pad(web_keep_BS, (image_BPD.shape[1], 0), value=True))
            prefix = prefix_packing.pack(prefix)
        packing = Packing.of(_up_to_last(chosen_BQ))
        index_M = packing.index_N
        queries_MD = functional.embedding(index_M % used, self.queries_QD)
        if self.token_embedding is not None:
            assert previous_ids_BQ is not None  # noqa: S101  (the model passes them)
            ids_M = previous_ids_BQ.flatten().index_select(0, index_M)
            queries_MD = (widen(queries_MD) + widen(self.token_embedding(ids_M))).to(self.queries_QD.dtype)
        last = self.blocks[-1]
        assert isinstance(last, Block)  # noqa: S101  (narrows the type of a ModuleList item)
        mask = prefix_causal_mask(length, prefix_packing, packing, compute_dtype(queries_MD, last.attn.in_proj.weight))
        for block in self.blocks[:-1]:
            prefix, queries_MD = block.prefix_causal(prefix, queries_MD, prefix_packing, packing, mask)
        hidden_ND: Tensor = self.norm(
            last.prefix_causal_chosen(prefix, queries_MD, prefix_packing, packing, mask, chosen_BQ)
        )
        return hidden_ND


def _up_to_last(chosen_BQ: Tensor) -> Tensor:
    """Return True up to the last chosen position of each row."""
    return chosen_BQ.flip(1).cumsum(dim=1).flip(1) > 0
