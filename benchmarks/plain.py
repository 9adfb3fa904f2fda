"""The published layout in plain PyTorch, which runs anywhere: the peer of `benchmarks.gpu`.

All rows are padded to 80, 80 and 128 ids; the captioner has a dense mask, all queries and all logits at once; both text rows are
encoded in one pass. Parameters have the names of `ClipsModel`, so that `load_state_dict` copies its weights. `benchmarks.step_peer`
is the same from open_clip's towers; `tests/unit/benchmarks/test_plain_layout.py` compares the losses of all three.

Shapes: B batch, L text context, P image tokens, Q queries, D width, E embedding, V vocabulary, S captioner sequence.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from clips_pipeline.models.flops import forward_flops_by_part
from clips_pipeline.models.plain import PlainBlock, PlainText, PlainVision
from clips_pipeline.models.sizes import EPSILON, CaptionerConfig, ClipsConfig
from clips_pipeline.models.vision import sincos_2d


class PlainCaptioner(nn.Module):
    """Blocks over image tokens, web tokens and queries with one dense mask, and logits of all queries."""

    def __init__(self, config: CaptionerConfig, image_width: int, text_width: int, prefix: int) -> None:
        super().__init__()
        self.image_projection = nn.Linear(image_width, config.width, bias=False)
        self.text_projection = nn.Linear(text_width, config.width, bias=False)
        self.queries_QD = nn.Parameter(torch.empty(config.queries, config.width))
        self.blocks = nn.ModuleList(PlainBlock(config.width, config.heads, "tanh") for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=EPSILON)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        length = prefix + config.queries
        allowed_SS = torch.ones(length, length, dtype=torch.bool).tril()
        allowed_SS[:prefix, :prefix] = True
        self.register_buffer("allowed_SS", allowed_SS, persistent=False)

    def forward(self, image_BPD: Tensor, web_BSD: Tensor) -> Tensor:
        """Return the logits (B, Q, V)."""
        queries_BQD = self.queries_QD.expand(len(image_BPD), -1, -1)
        parts = self.image_projection(image_BPD), self.text_projection(web_BSD), queries_BQD
        x_BSD = torch.cat([part.to(queries_BQD.dtype) for part in parts], dim=1)
        for block in self.blocks:
            x_BSD = block(x_BSD, self.allowed_SS)
        logits_BQV: Tensor = self.head(self.norm(x_BSD[:, -self.queries_QD.shape[0] :]))
        return logits_BQV


class PlainLayout(nn.Module):
    """Towers and captioner of a configuration with `padding: attend`."""

    def __init__(self, config: ClipsConfig) -> None:
        super().__init__()
        vision, text, captioner = config.vision, config.text, config.captioner
        if captioner is None or captioner.inputs != "queries" or text.padding != "attend":
            raise ValueError("the published layout has a captioner with queries and attends to PAD")
        self.vision = PlainVision(
            vision.image_size, vision.patch_size, vision.width, vision.depth, vision.heads, config.embed_dim
        )
        side = vision.image_size // vision.patch_size
        self.vision.positions_PD = sincos_2d(side, side, vision.width)
        self.text = PlainText(
            text.vocab_size, text.context_length, text.width, text.depth, text.heads, config.embed_dim
        )
        self.captioner = PlainCaptioner(captioner, vision.width, text.width, vision.tokens + text.context_length - 1)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.pad_id = text.pad_id

    def copy_weights(self, model: nn.Module) -> "PlainLayout":
        """Copy the weights of a `ClipsModel` of the same configuration."""
        missing, unexpected = self.load_state_dict(model.state_dict(), strict=False)
        if missing != ["vision.positions_PD"] or unexpected:
            raise ValueError(f"not the weights of this model: missing {missing}, unexpected {unexpected}")
        return self

    def forward(self, images: Tensor, web_ids_BL: Tensor, fragment_ids_BL: Tensor, target_ids_BT: Tensor) -> Tensor:
        """Return the total loss of a batch, a scalar."""
        tokens_BSD = self.vision.tokens(images)
        image_BE = self.vision.pool(tokens_BSD)
        text_BLD = self.text.tokens(torch.cat([web_ids_BL, fragment_ids_BL]))
        web_BE, fragment_BE = self.text.pool(text_BLD).chunk(2)
        scale = self.logit_scale.exp()
        contrastive = (_contrastive_term(image_BE, web_BE, scale) + _contrastive_term(image_BE, fragment_BE, scale)) / 2
        logits_BQV = self.captioner(tokens_BSD[:, 1:], text_BLD[: len(images), :-1])
        next_ids_BQ = functional.pad(target_ids_BT[:, 1:], (0, 1), value=self.pad_id)
        logits_NV, ids_N = logits_BQV[:, : next_ids_BQ.shape[1]].flatten(0, 1), next_ids_BQ.flatten()
        caption = functional.cross_entropy(logits_NV, ids_N, ignore_index=self.pad_id)
        return contrastive + 2.0 * caption


def _contrastive_term(image_BE: Tensor, text_BE: Tensor, scale: Tensor) -> Tensor:
    logits_BB = scale * image_BE @ text_BE.T
    labels_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (functional.cross_entropy(logits_BB, labels_B) + functional.cross_entropy(logits_BB.T, labels_B)) / 2


def forward_flops(config: ClipsConfig) -> int:
    """Return the operations of one sample's matrix products: every position of every block, and all logits."""
    vision, text, captioner = config.vision, config.text, config.captioner
    if captioner is None:
        raise ValueError("the published layout has a captioner")
    parts = forward_flops_by_part(config, text.context_length, 0, captioner.queries)
    rows = vision.tokens + text.context_length - 1 + captioner.queries
    blocks = captioner.depth * (24 * rows * captioner.width**2 + 4 * rows**2 * captioner.width)
    projections = 2 * captioner.width * (vision.tokens * vision.width + (text.context_length - 1) * text.width)
    return parts["vision tower"] + 2 * parts["text tower"] + blocks + projections + parts["vocabulary head"]
