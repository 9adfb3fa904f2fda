"""The published layout, built from open_clip's parts: the peer of `benchmarks.step`.

All rows are padded to 80, 80 and 128 ids; the captioner has a dense mask, all queries and all logits at once; both text rows are
encoded in one pass. Widths, depths, parameters and mathematics are those of ours with `padding: attend`; the benchmark checks that
the losses agree.

Shapes: B batch, L text context, P image tokens, S captioner sequence, D width, E embedding, V vocabulary.
"""

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import Transformer
from torch import Tensor, nn
from torch.nn import functional

from clips_pipeline.models.sizes import EPSILON, ClipsConfig


class PublishedLayout(nn.Module):
    """Towers of open_clip, and a captioner of its blocks with one dense mask."""

    def __init__(self, config: ClipsConfig) -> None:
        super().__init__()
        norm = {"eps": EPSILON}
        vision, text, captioner = config.vision, config.text, config.captioner
        self.clip = open_clip.model.CLIP(
            embed_dim=config.embed_dim,
            vision_cfg=CLIPVisionCfg(
                image_size=vision.image_size,
                layers=vision.depth,
                width=vision.width,
                head_width=vision.width // vision.heads,
                patch_size=vision.patch_size,
                no_ln_pre=True,
                pool_type="avg",
                final_ln_after_pool=True,
                output_tokens=True,
                norm_kwargs=norm,
            ),
            text_cfg=CLIPTextCfg(
                context_length=text.context_length,
                vocab_size=text.vocab_size,
                width=text.width,
                heads=text.heads,
                layers=text.depth,
                no_causal_mask=True,
                pool_type="last",
                act_kwargs={"approximate": "tanh"},
                norm_kwargs=norm,
            ),
        )
        self.clip.visual.output_tokens = True
        self.clip.visual.positional_embedding.requires_grad_(False)  # fixed in the method
        self.image_projection = nn.Linear(vision.width, captioner.width, bias=False)
        self.text_projection = nn.Linear(text.width, captioner.width, bias=False)
        self.queries_QD = nn.Parameter(torch.empty(captioner.queries, captioner.width))
        self.captioner = Transformer(
            captioner.width,
            captioner.depth,
            captioner.heads,
            norm_layer=lambda width: nn.LayerNorm(width, eps=EPSILON),
            act_layer=lambda: nn.GELU(approximate="tanh"),
        )
        self.captioner_norm = nn.LayerNorm(captioner.width, eps=EPSILON)
        self.head = nn.Linear(captioner.width, captioner.vocab_size, bias=False)
        prefix = vision.tokens + text.context_length - 1
        length = prefix + captioner.queries
        forbidden_SS = torch.ones(length, length, dtype=torch.bool).triu(1)
        forbidden_SS[:prefix, :prefix] = False
        mask_SS = torch.zeros(length, length).masked_fill(forbidden_SS, float("-inf"))
        self.register_buffer("mask_SS", mask_SS, persistent=False)

    def forward(self, images: Tensor, web_ids_BL: Tensor, fragment_ids_BL: Tensor, target_ids_BT: Tensor) -> Tensor:
        """Return the total loss of a batch, a scalar."""
        pooled, tokens_BPD = self.clip.visual(images)
        image_BE = functional.normalize(pooled, dim=-1)
        text_BLD = self._text(torch.cat([web_ids_BL, fragment_ids_BL]))
        feature = self.clip.ln_final(text_BLD[:, -1]) @ self.clip.text_projection
        web_BE, fragment_BE = functional.normalize(feature, dim=-1).chunk(2)
        scale = self.clip.logit_scale.exp()
        contrastive = (_contrastive_term(image_BE, web_BE, scale) + _contrastive_term(image_BE, fragment_BE, scale)) / 2
        web_BSD = text_BLD[: len(images), :-1]
        x_BSD = torch.cat(
            [
                self.image_projection(tokens_BPD),
                self.text_projection(web_BSD),
                self.queries_QD.expand(len(images), -1, -1),
            ],
            dim=1,
        )
        hidden_BQD = self.captioner(x_BSD, attn_mask=self.mask_SS)[:, -self.queries_QD.shape[0] :]
        logits_BQV = self.head(self.captioner_norm(hidden_BQD))
        next_ids_BQ = functional.pad(target_ids_BT[:, 1:], (0, 1))
        caption = functional.cross_entropy(logits_BQV.flatten(0, 1), next_ids_BQ.flatten(), ignore_index=0)
        return contrastive + 2.0 * caption

    def _text(self, ids_BL: Tensor) -> Tensor:
        x_BLD = self.clip.token_embedding(ids_BL) + self.clip.positional_embedding
        tokens_BLD: Tensor = self.clip.transformer(x_BLD)
        return tokens_BLD


def _contrastive_term(image_BE: Tensor, text_BE: Tensor, scale: Tensor) -> Tensor:
    logits_BB = scale * image_BE @ text_BE.T
    labels_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (functional.cross_entropy(logits_BB, labels_B) + functional.cross_entropy(logits_BB.T, labels_B)) / 2


@torch.no_grad()
def copy_weights(ours: nn.Module, peer: PublishedLayout) -> None:
    """Copy the weights of a `ClipsModel` to the peer."""
    from clips_pipeline.interop.open_clip import to_state_dict
    from clips_pipeline.models.clips import ClipsModel

    assert isinstance(ours, ClipsModel)
    peer.clip.load_state_dict(to_state_dict(ours), strict=True)
    named = {
        name.replace("blocks.", "captioner.resblocks.").replace("in_proj.", "in_proj_"): tensor
        for name, tensor in ours.captioner.state_dict().items()
    }
    named = {
        name.replace("norm.", "captioner_norm.", 1) if name.startswith("norm.") else name: t
        for name, t in named.items()
    }
    parts = {name: tensor for name, tensor in peer.named_parameters() if not name.startswith("clip.")}
    if named.keys() != parts.keys():
        raise RuntimeError(f"the peer's captioner has other parts: {sorted(named.keys() ^ parts.keys())}")
    for name, tensor in parts.items():
        tensor.copy_(named[name])
