# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""The CLIPS model: two towers, a logit scale, and a captioner that is used in training only. CLIPS paper, section 3.

Shapes: B batch, C colors, H height, W width (pixels), L text context, T target length, Q queries, N valid target positions,
E embedding, D captioner width, V vocabulary, P image tokens, S web caption tokens, K patches kept.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clips_pipeline.models.captioner import Captioner
from clips_pipeline.models.init import (
    INITIAL_TEMPERATURE,
    initialize_captioner,
    initialize_text,
    initialize_vision,
)
from clips_pipeline.models.precision import unit_rows
from clips_pipeline.models.sizes import ClipsConfig
from clips_pipeline.models.text import TextOutput, TextTower, last_true
from clips_pipeline.models.vision import VisionTower


class ClipsOutput(NamedTuple):
    """Everything that the losses need. Features are L2-normalized; `logit_scale` is exp(t), a scalar.

    `caption_hidden_ND` holds the captioner's normalized state at valid target positions only, row-major. Its logits are
    `hidden @ model.captioner.head.weight.T`, with the targets `caption_targets_N`. Methods without fragments have `fragment_BE`
    (B, 0); methods without a captioner have `caption_hidden_ND` (0, 0).
    """

    image_BE: Tensor
    web_BE: Tensor
    fragment_BE: Tensor
    logit_scale: Tensor
    caption_hidden_ND: Tensor
    caption_targets_N: Tensor


class ClipsModel(nn.Module):
    """The whole model. Construct it under `torch.device("meta")` to count parameters without memory.

    The parameter `logit_scale` is the logarithm of the scale; it is not clamped here. The captioner's gradient reaches the text
    tower through the web caption; nothing is detached.
    """

    def __init__(self, config: ClipsConfig) -> None:
        super().__init__()
        self.config = config
        captioner = config.captioner
        # Modules initialize their parameters; those values are replaced below, and must not advance the random generator.
        with torch.random.fork_rng(devices=[]):
            self.vision = VisionTower(config.vision, config.embed_dim)
            self.text = TextTower(config.text, config.embed_dim)
            self.captioner = None if captioner is None else Captioner(captioner, config.vision.width, config.text.width)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize all parameters from PyTorch's default generator."""
        initialize_vision(self.vision)
        initialize_text(self.text)
        # Last, so that all methods start with the same towers, whatever their captioner.
        if self.captioner is not None:
            initialize_captioner(self.captioner)
        self.logit_scale.fill_(math.log(1.0 / INITIAL_TEMPERATURE))

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Return unit features (B, E) of normalized images (B, 3, H, W)."""
        return unit_rows(self.vision(images_BCHW).feature_BE)

    def encode_text(self, ids_BL: Tensor) -> Tensor:
        """Return unit features (B, E) of rows of ids (B, L) that end in [CLS]."""
        return unit_rows(self.text.feature(ids_BL))

    def forward(
        self,
        images_BCHW: Tensor,
        web_ids_BL: Tensor,
        fragment_ids_BL: Tensor,
        target_ids_BT: Tensor,
        kept_BK: Tensor | None = None,
    ) -> ClipsOutput:
        """Run the forward pass of a training step.

        Args:
            images_BCHW: normalized images.
            web_ids_BL: rows of the web captions (contrast, and condition of the captioner).
            fragment_ids_BL: rows of the fragments (contrast only); (B, 0) for none.
            target_ids_BT: target rows [BOS] ... [EOS] PAD of the whole synthetic captions; T - 1 <= queries. Not read without a
                captioner.
            kept_BK: indices of the patches that the vision tower reads (patch dropout); None reads all.

        Raises:
            ValueError: a shape does not fit the configuration.
        """
        image_BE, web_BE, fragment_BE, hidden_ND, targets_N = self.encode_all(
            images_BCHW, web_ids_BL, fragment_ids_BL, target_ids_BT, kept_BK
        )
        return ClipsOutput(image_BE, web_BE, fragment_BE, self.logit_scale.exp(), hidden_ND, targets_N)

    def encode_all(
        self,
        images_BCHW: Tensor,
        web_ids_BL: Tensor,
        fragment_ids_BL: Tensor,
        target_ids_BT: Tensor,
        kept_BK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the fields of `ClipsOutput` except the logit scale. Rows are independent of each other here."""
        has_fragment = fragment_ids_BL.shape[1] > 0
        next_ids_BQ = target_ids_BT[:, 1:]
        valid_BQ = next_ids_BQ != self.config.text.pad_id
        lengths = [self.text.body_length(ids_BL) for ids_BL in (web_ids_BL, fragment_ids_BL)[: 1 + has_fragment]]
        if self.captioner is not None:
            lengths.append(last_true(valid_BQ))
        # One synchronization with the device instead of three.
        web_body, *others = torch.stack(lengths).tolist()
        image = self.vision(images_BCHW, kept_BK)
        rows = [(web_ids_BL, web_body), *([(fragment_ids_BL, others[0])] if has_fragment else [])]
        web_input, *fragment_input = self.text.embed(*rows)
        # Two passes, because under `padding: mask` each is only as long as its longest row.
        web = self.text.encode(web_input)
        image_BE, web_BE = unit_rows(image.feature_BE), unit_rows(web.feature_BE)
        # Only the pooled feature of a fragment is needed.
        fragment_BE = unit_rows(self.text.pooled_feature(fragment_input[0])) if has_fragment else web_BE[:, :0]
        if self.captioner is None:
            return image_BE, web_BE, fragment_BE, web_BE[:0, :0], web_ids_BL[:0, 0]
        # At least one query, so that a batch without any target has a (zero) gradient for every parameter.
        used = max(others[-1], 1)
        valid_BQ, next_ids_BQ = valid_BQ[:, :used], next_ids_BQ[:, :used]
        if self.captioner.token_embedding is not None:
            previous_ids_BQ = target_ids_BT[:, :used]
            hidden_ND = self.captioner(image.tokens_BPD, None, valid_BQ, previous_ids_BQ=previous_ids_BQ)
        else:
            hidden_ND = self.captioner(image.tokens_BPD, self._condition(web), valid_BQ, web.keep_BS)
        return image_BE, web_BE, fragment_BE, hidden_ND, next_ids_BQ[valid_BQ]

    def caption_logits(self, images_BCHW: Tensor, web_ids_BL: Tensor) -> Tensor:
        """Return the logits (B, Q, V) of all queries, for decoding captions. Training never builds this tensor.

        Raises:
            ValueError: the model has no captioner, or one that needs the preceding words.
        """
        if self.captioner is None or self.captioner.token_embedding is not None:
            raise ValueError("only a captioner with queries (method clips) predicts all words at once")
        image, web = self.vision(images_BCHW), self.text(web_ids_BL)
        queries = self.captioner.config.queries
        all_BQ = torch.ones(web_ids_BL.shape[0], queries, dtype=torch.bool, device=web_ids_BL.device)
        hidden_ND = self.captioner(image.tokens_BPD, self._condition(web), all_BQ, web.keep_BS)
        logits_BQV: Tensor = self.captioner.head(hidden_ND).unflatten(0, all_BQ.shape)
        return logits_BQV

    def _condition(self, web: TextOutput) -> Tensor:
        """Return the tokens (B, S, D) of the web captions that the captioner reads."""
        if self.captioner is not None and self.captioner.config.condition == "after_norm":
            normalized_BSD: Tensor = self.text.norm(web.tokens_BSD)
            return normalized_BSD
        return web.tokens_BSD
