# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""The CLIPS model: two towers, a logit scale, and a captioner that is used in training only. CLIPS paper, section 3.

Shapes: B batch, C colors, H height, W width (pixels), L text context, T target length, Q queries, N valid target positions,
E embedding, D captioner width, V vocabulary, P image tokens, S web caption tokens, K patches kept, F fragments, I image tokens
kept.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clips_pipeline.models.captioner import Captioner
from clips_pipeline.models.init import (
    INITIAL_SIGMOID,
    INITIAL_TEMPERATURE,
    initialize_captioner,
    initialize_text,
    initialize_vision,
)
from clips_pipeline.models.precision import unit_rows
from clips_pipeline.models.rows.layout import CaptionRows, ChunkLayout, StepLayout, step_layout
from clips_pipeline.models.sizes import ClipsConfig
from clips_pipeline.models.text import TextOutput, TextTower
from clips_pipeline.models.vision import VisionTower


class ClipsOutput(NamedTuple):
    """Everything that the losses need. Features are L2-normalized; `logit_scale` is exp(t), a scalar.

    `caption_hidden_ND` holds the captioner's normalized state at valid target positions only, row-major. Its logits are
    `hidden @ model.captioner.head.weight.T`, with the targets `caption_targets_N`. `fragment_BE` is (B, F, E) for F > 1 fragments.
    Methods without fragments have `fragment_BE` (B, 0), without a text tower also `web_BE`; methods without a captioner have
    `caption_hidden_ND` (0, 0). `logit_bias` is None for the softmax.
    """

    image_BE: Tensor
    web_BE: Tensor
    fragment_BE: Tensor
    logit_scale: Tensor
    caption_hidden_ND: Tensor
    caption_targets_N: Tensor
    logit_bias: Tensor | None = None


class ClipsModel(nn.Module):
    """The whole model. Construct it under `torch.device("meta")` to count parameters without memory.

    The parameter `logit_scale` is the logarithm of the scale; it is not clamped here. The captioner's gradient reaches the text
    tower through the web caption; nothing is detached. `logit_bias` exists for the sigmoid loss only. Without a text tower the
    scale is the constant 1 and no parameter.
    """

    logit_scale: Tensor
    logit_bias: Tensor | None

    def __init__(self, config: ClipsConfig) -> None:
        super().__init__()
        self.config = config
        captioner, both = config.captioner, config.text_tower
        # Modules initialize their parameters; those values are replaced below, and must not advance the random generator.
        with torch.random.fork_rng(devices=[]):
            self.vision = VisionTower(config.vision, config.embed_dim if both else None)
            self.text = TextTower(config.text, config.embed_dim) if both else None
            self.captioner = None if captioner is None else Captioner(captioner, config.vision.width, config.text.width)
        if both:
            self.logit_scale = nn.Parameter(torch.empty(()))
        else:
            # On the CPU, so that it has a value if the model is built on the meta device.
            self.register_buffer("logit_scale", torch.zeros((), device="cpu"), persistent=False)
        sigmoid = both and config.contrastive == "sigmoid"
        self.register_parameter("logit_bias", nn.Parameter(torch.empty(())) if sigmoid else None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize all parameters from PyTorch's default generator."""
        initialize_vision(self.vision)
        if self.text is not None:
            initialize_text(self.text)
        # Last, so that all methods start with the same towers, whatever their captioner.
        if self.captioner is not None:
            initialize_captioner(self.captioner)
        self.reset_scale()

    @torch.no_grad()
    def reset_scale(self) -> None:
        """Give the logit scale, and the bias if there is one, their initial values."""
        scale, bias = INITIAL_SIGMOID
        if self.logit_bias is not None:
            self.logit_scale.fill_(math.log(scale))
            self.logit_bias.fill_(bias)
        elif self.text is not None:
            self.logit_scale.fill_(math.log(1.0 / INITIAL_TEMPERATURE))

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Return unit features (B, E) of normalized images (B, 3, H, W)."""
        return unit_rows(self.vision(images_BCHW).feature_BE)

    def encode_text(self, ids_BL: Tensor) -> Tensor:
        """Return unit features (B, E) of rows of ids (B, L) that end in [CLS].

        Raises:
            ValueError: the model has no text tower.
        """
        if self.text is None:
            raise ValueError("this model has no text tower: it was trained with train.method captioning")
        return unit_rows(self.text.feature(ids_BL))

    def forward(
        self,
        images_BCHW: Tensor,
        web_ids_BL: Tensor,
        fragment_ids_BL: Tensor,
        target_ids_BT: Tensor,
        kept_BK: Tensor | None = None,
        captioned_BI: Tensor | None = None,
        layout: StepLayout | None = None,
    ) -> ClipsOutput:
        """Run the forward pass of a training step.

        Args:
            images_BCHW: normalized images.
            web_ids_BL: rows of the web captions (contrast, and condition of the captioner); not read without a text tower.
            fragment_ids_BL: rows of the fragments (contrast only), (B, F, L) for more than one of each image; (B, 0) for none.
            target_ids_BT: target rows [BOS] ... [EOS] PAD of the whole synthetic captions; T - 1 <= queries. Not read without a
                captioner.
            kept_BK: indices of the patches that the vision tower reads (patch dropout); None reads all.
            captioned_BI: indices of the image tokens that the captioner reads, among those of the vision tower; None reads all.
            layout: layout of these rows without chunks, as the loader computes it; None computes it here, which synchronizes with
                the device.

        Raises:
            ValueError: a shape does not fit the configuration.
        """
        if layout is None:
            layout = step_layout(self.config, web_ids_BL, fragment_ids_BL, target_ids_BT).to(images_BCHW.device)
        (chunk,) = layout.chunks()
        image_BE, web_BE, fragment_BE, hidden_ND, targets_N = self.encode_all(
            images_BCHW, web_ids_BL, fragment_ids_BL, target_ids_BT, kept_BK, captioned_BI, chunk
        )
        return self.output(image_BE, web_BE, fragment_BE, hidden_ND, targets_N)

    def output(
        self, image_BE: Tensor, web_BE: Tensor, fragment_BE: Tensor, hidden_ND: Tensor, targets_N: Tensor
    ) -> ClipsOutput:
        """Return the result of `encode_all` with scale and bias. Under FSDP2 both have the shape (1,)."""
        scale = self.logit_scale.exp()
        return ClipsOutput(image_BE, web_BE, fragment_BE, scale, hidden_ND, targets_N, self.logit_bias)

    def encode_all(
        self,
        images_BCHW: Tensor,
        web_ids_BL: Tensor,
        fragment_ids_BL: Tensor,
        target_ids_BT: Tensor,
        kept_BK: Tensor | None = None,
        captioned_BI: Tensor | None = None,
        layout: ChunkLayout | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the fields of `ClipsOutput` except scale and bias. Rows are independent of each other here."""
        if layout is None:
            whole = step_layout(self.config, web_ids_BL, fragment_ids_BL, target_ids_BT).to(images_BCHW.device)
            (layout,) = whole.chunks()
        # The rows of all fragments one below the other.
        fragments = 0 if fragment_ids_BL.shape[1] == 0 else fragment_ids_BL[0].numel() // fragment_ids_BL.shape[-1]
        image = self.vision(images_BCHW, kept_BK)
        image_BE = unit_rows(image.feature_BE)
        web, web_BE, fragment_BE = None, image_BE[:, :0], image_BE[:, :0]
        if self.text is not None:
            ids = [web_ids_BL, *([fragment_ids_BL.flatten(0, -2)] if fragments else [])]
            web_input, *fragment_input = self.text.embed(*zip(ids, layout.texts or [None] * len(ids), strict=True))
            # Two passes, because under `padding: mask` each is only as long as its longest row.
            web = self.text.encode(web_input)
            web_BE = unit_rows(web.feature_BE)
            if fragments:
                # Only the pooled feature of a fragment is needed.
                fragment_BE = unit_rows(self.text.pooled_feature(fragment_input[0]))
            if fragments > 1:
                fragment_BE = fragment_BE.view(-1, fragments, fragment_BE.shape[-1])
        captions = layout.captions
        if self.captioner is None or captions is None:
            return image_BE, web_BE, fragment_BE, image_BE[:0, :0], target_ids_BT.flatten()[:0]
        tokens_BPD = image.tokens_BPD
        if captioned_BI is not None:
            tokens_BPD = tokens_BPD.gather(1, captioned_BI[..., None].expand(-1, -1, tokens_BPD.shape[2]))
        if self.captioner.token_embedding is not None:
            used = captions.packing.keep_BS.shape[1]
            hidden_ND = self.captioner(tokens_BPD, None, captions, previous_ids_BQ=target_ids_BT[:, :used])
        else:
            assert web is not None  # noqa: S101  (a captioner with queries needs a text tower: ClipsConfig)
            hidden_ND = self.captioner(tokens_BPD, self._condition(web), captions, web.packing)
        return image_BE, web_BE, fragment_BE, hidden_ND, captions.targets_C

    def caption_logits(self, images_BCHW: Tensor, web_ids_BL: Tensor) -> Tensor:
        """Return the logits (B, Q, V) of all queries, for decoding captions. Training never builds this tensor.

        Raises:
            ValueError: the model has no captioner, or one that needs the preceding words.
        """
        if self.captioner is None or self.text is None or self.captioner.token_embedding is not None:
            raise ValueError("only a captioner with queries (method clips) predicts all words at once")
        image, web = self.vision(images_BCHW), self.text(web_ids_BL)
        shape = web_ids_BL.shape[0], self.captioner.config.queries
        rows = CaptionRows.all(*shape, web_ids_BL.device)
        hidden_ND = self.captioner(image.tokens_BPD, self._condition(web), rows, web.packing)
        logits_BQV: Tensor = self.captioner.head(hidden_ND).unflatten(0, shape)
        return logits_BQV

    def _condition(self, web: TextOutput) -> Tensor:
        """Return the tokens (B, S, D) of the web captions that the captioner reads."""
        if self.text is not None and self.captioner is not None and self.captioner.config.condition == "after_norm":
            normalized_BSD: Tensor = self.text.norm(web.tokens_BSD)
            return normalized_BSD
        return web.tokens_BSD
