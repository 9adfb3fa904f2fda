"""A CLIPS model (arXiv 2411.16828) for Transformers: vision tower, text tower, logit scale, and bias of the sigmoid loss.

Shapes: B images, T texts, C H W image, L context length, E embedding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from clips_pipeline.interop.export.remote_code.configuration_clips import ClipsConfig
from clips_pipeline.models.plain import PlainText, PlainVision


@dataclass
class ClipsOutput(ModelOutput):  # type: ignore[misc]
    """Features of unit norm, and their logits (B, T) and (T, B): scaled cosines, plus the bias."""

    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class ClipsModel(PreTrainedModel):  # type: ignore[misc]
    """Both towers. Rows of ids are filled up to the context length, and end in [CLS] whatever stood there."""

    config_class = ClipsConfig

    def __init__(self, config: ClipsConfig) -> None:
        super().__init__(config)
        self.vision = PlainVision(**config.vision)
        self.text = PlainText(**config.text)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.register_parameter("logit_bias", nn.Parameter(torch.zeros(())) if config.sigmoid else None)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: every weight is loaded."""

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return unit features (B, E) of normalized images (B, C, H, W)."""
        features_BE: Tensor = self.vision(pixel_values)
        return features_BE

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return unit features (T, E) of rows of at most L ids. The mask is not needed: the ids say what is padding."""
        length = self.config.text["context_length"]
        row_TL = functional.pad(
            input_ids[:, :length], (0, max(length - input_ids.shape[1], 0)), value=self.config.pad_id
        )
        cls_T1 = torch.full_like(row_TL[:, :1], self.config.cls_id)
        features_TE: Tensor = self.text(torch.cat([row_TL[:, :-1], cls_T1], dim=1))
        return features_TE

    def forward(
        self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> ClipsOutput:
        """Return the features of images, of texts, or of both with their similarities."""
        image_BE = None if pixel_values is None else self.get_image_features(pixel_values)
        text_TE = None if input_ids is None else self.get_text_features(input_ids)
        if image_BE is None or text_TE is None:
            return ClipsOutput(image_embeds=image_BE, text_embeds=text_TE)
        logits_BT = self.logit_scale.exp() * image_BE @ text_TE.T
        if self.logit_bias is not None:
            logits_BT = logits_BT + self.logit_bias
        return ClipsOutput(logits_BT, logits_BT.T, image_BE, text_TE)
