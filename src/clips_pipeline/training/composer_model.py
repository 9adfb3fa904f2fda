"""Adapter from `ClipsModel` to Composer's model interface: forward and loss, without any mathematics."""

from collections.abc import Mapping
from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor

from clips_pipeline.data.images.color_batch import change_colors
from clips_pipeline.data.images.transforms import ImageConfig, normalize
from clips_pipeline.data.loading.batch import ClipsBatch
from clips_pipeline.losses.total import LossWeights, clips_loss
from clips_pipeline.models.clips import ClipsModel, ClipsOutput
from clips_pipeline.models.grad_cache import forward_in_chunks
from clips_pipeline.training.callbacks.image_schedule import ImageSchedule


class ComposerClips(ComposerModel):  # type: ignore[misc]  # Composer ships no types
    """Wraps `ClipsModel`. Images arrive as uint8 and are normalized on the device, after color jitter if that is left to it.

    Args:
        clips: the model.
        weights: weights of the losses.
        images: mean and standard deviation of the pixels.
        chunk_size: samples whose activations are held at a time; None holds those of the whole batch.
        image_schedule: resolution and patch dropout by step; None is neither. `step` must be set before each batch.
        sent_as: type in which features travel between ranks; None is that of the losses.
    """

    def __init__(
        self,
        clips: ClipsModel,
        weights: LossWeights,
        images: ImageConfig,
        chunk_size: int | None = None,
        image_schedule: ImageSchedule | None = None,
        sent_as: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.chunk_size = chunk_size
        self.clips = clips
        self.weights = weights
        self.images = images
        self.image_schedule = image_schedule
        self.sent_as = sent_as
        self.step = 0

    def forward(self, batch: ClipsBatch) -> ClipsOutput:
        """Run both towers and the captioner on one batch."""
        # Composer moves tensors and collections of tensors to the device, not a batch with named fields.
        batch = batch.to(self.clips.logit_scale.device, non_blocking=True)
        images_BCHW = batch.images_BCHW
        if batch.colors_B9 is not None:
            images_BCHW = change_colors(images_BCHW, batch.colors_B9)
        images_BCHW = normalize(images_BCHW, self.images.mean, self.images.std)
        kept_BK = captioned_BI = None
        if self.image_schedule is not None and self.training:
            images_BCHW = self.image_schedule.resize(images_BCHW, self.step)
            device = images_BCHW.device
            kept_BK = self.image_schedule.kept_patches(len(batch), self.step, device)
            captioned_BI = self.image_schedule.captioned_tokens(len(batch), self.step, device)
        inputs = images_BCHW, batch.web_ids_BL, batch.fragment_ids_BL, batch.target_ids_BT
        output: ClipsOutput
        if self.chunk_size is not None and self.chunk_size < len(batch):
            output = forward_in_chunks(self.clips, *inputs, self.chunk_size, captioned_BI, batch.layout)
        else:
            output = self.clips(*inputs, kept_BK, captioned_BI, batch.layout)
        bias = output.logit_bias
        return output._replace(
            logit_scale=output.logit_scale.reshape(()), logit_bias=None if bias is None else bias.reshape(())
        )

    def loss(self, outputs: ClipsOutput, batch: ClipsBatch) -> dict[str, Tensor]:
        """Return the total, which Composer differentiates, and the losses of the method, which Composer logs."""
        group = torch.distributed.group.WORLD if torch.distributed.is_initialized() else None
        captioner = self.clips.captioner
        head_VD = None if captioner is None else captioner.head.weight
        parts = clips_loss(outputs, head_VD, self.weights, group=group, sent_as=self.sent_as)
        logged = {name: value.detach() for name, value in parts._asdict().items() if value is not None}
        return logged | {"total": parts.total}

    def eval_forward(self, batch: Any, outputs: Any = None) -> Any:
        """Not implemented: retrieval needs all rows at once, so `callbacks.retrieval` evaluates."""
        raise NotImplementedError("evaluation during training runs in training.callbacks.retrieval")

    def get_metrics(self, is_train: bool = False) -> Mapping[str, Any]:
        """Return no torchmetrics: they would add state to checkpoints."""
        return {}
