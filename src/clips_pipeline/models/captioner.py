"""The captioner predicts the whole synthetic caption at once, from image and web caption. CLIPS paper, section 3.

No earlier word is ever an input: learnable queries stand where the shifted caption would be, and the causal mask lets
query i see the image, the web caption and the queries up to its own. Hence queries past the target of a row are left
out, and the last block is computed only where there is a target. PAD of web captions that is hidden is left out too.

With `inputs: tokens` it is CoCa's instead: the image is the prefix, and each place reads the token before its own (teacher
forcing) beside a learned position. Mask, blocks, norm and head are the same.

Shapes: B batch, P image tokens, S web caption tokens, Q queries, N chosen positions, D width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from clips_pipeline.models.blocks import Block
from clips_pipeline.models.packing import Packing
from clips_pipeline.models.precision import FullLinear, FullNorm, widen
from clips_pipeline.models.sizes import CaptionerConfig


class Captioner(nn.Module):
    """Projections of both conditions, learnable queries, prefix-causal blocks, norm and an untied head.

    The head is not applied here: the caption loss multiplies by `head.weight` (V, D) in chunks.
    """

    def __init__(self, config: CaptionerConfig, image_width: int, text_width: int) -> None:
        super().__init__()
        self.config = config
        self.image_projection = FullLinear(image_width, config.width)
        reads_tokens = config.inputs == "tokens"
        self.text_projection = None if reads_tokens else FullLinear(text_width, config.width)
        self.token_embedding = nn.Embedding(config.vocab_size, config.width) if reads_tokens else None
        self.queries_QD = nn.Parameter(torch.empty(config.queries, config.width))
        self.blocks = nn.ModuleList(
            # Its sequences are the longest, and half of all activations are in them.
            Block(config.width, config.heads, "tanh", remake_hidden=True)
            for _ in range(config.depth)
        )
        self.norm = FullNorm(config.width)
        self.head = FullLinear(config.width, config.vocab_size)

    def forward(
        self,
        image_BPD: Tensor,
        web_BSD: Tensor | None,
        chosen_BQ: Tensor,
        web_keep_BS: Tensor | None = None,
        before_ids_BQ: Tensor | None = None,
    ) -> Tensor:
        """The normalised hidden state (N, D) at the chosen query positions, row-major.

        Args:
            image_BPD: (B, P, image width) image tokens.
            web_BSD: (B, S, text width) tokens of the web caption; None with `inputs: tokens`.
            chosen_BQ: (B, Q') bool, Q' <= queries: where a prediction is wanted. In each row, the queries up to the last
                such one are computed.
            web_keep_BS: (B, S) bool, True where a web token may be attended; None means everywhere.
            before_ids_BQ: (B, Q') the token before each place, with `inputs: tokens` alone.

        Raises:
            ValueError: more query positions asked for than there are queries.
        """
        used = chosen_BQ.shape[1]
        if used > self.config.queries:
            raise ValueError(
                f"{used} target positions for {self.config.queries} queries: shorten targets or raise captioner.queries"
            )
        prefix_BSD = self.image_projection(image_BPD)
        if self.text_projection is not None:
            prefix_BSD = torch.cat([prefix_BSD, self.text_projection(web_BSD)], dim=1)
        prefix = prefix_BSD.shape[1]
        queries_BQD = self.queries_QD[:used].to(prefix_BSD.dtype).expand(prefix_BSD.shape[0], -1, -1)
        if self.token_embedding is not None:
            assert before_ids_BQ is not None  # noqa: S101  (the model gives them)
            queries_BQD = queries_BQD + widen(self.token_embedding(before_ids_BQ))
        x_BSD = torch.cat([prefix_BSD, queries_BQD], dim=1).to(self.queries_QD.dtype)
        keep_BP = None if web_keep_BS is None else functional.pad(web_keep_BS, (image_BPD.shape[1], 0), value=True)
        packing = Packing.of(torch.cat([_kept(keep_BP, prefix_BSD), _up_to_last(chosen_BQ)], dim=1))
        x_ND = packing.pack(x_BSD)
        for block in self.blocks[:-1]:
            x_ND = block.prefix_causal(x_ND, packing, prefix, keep_BP)
        last = self.blocks[-1]
        assert isinstance(last, Block)  # noqa: S101  (narrows the type of a ModuleList item)
        hidden_ND: Tensor = self.norm(last.prefix_causal_chosen(x_ND, packing, chosen_BQ, keep_BP))
        return hidden_ND


def _kept(keep_BP: Tensor | None, prefix_BPD: Tensor) -> Tensor:
    return torch.ones_like(prefix_BPD[..., 0], dtype=torch.bool) if keep_BP is None else keep_BP


def _up_to_last(chosen_BQ: Tensor) -> Tensor:
    """True up to the last chosen place of each row."""
    return chosen_BQ.flip(1).cumsum(dim=1).flip(1) > 0
