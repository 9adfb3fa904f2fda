"""The model as Composer wants it: forward, loss, nothing else. No mathematics here."""

from collections.abc import Mapping
from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor

from clips_pipeline.data.images.transforms import ImageConfig, normalize
from clips_pipeline.data.loading.batch import ClipsBatch
from clips_pipeline.losses.total import LossWeights, clips_loss
from clips_pipeline.models.clips import ClipsModel, ClipsOutput
from clips_pipeline.models.grad_cache import forward_in_chunks
from clips_pipeline.training.callbacks.image_schedule import ImageSchedule


class ComposerClips(ComposerModel):  # type: ignore[misc]  # Composer ships no types
    """Wraps `ClipsModel`; images arrive as uint8 and are normalised on the device."""

    def __init__(
        self,
        clips: ClipsModel,
        weights: LossWeights,
        images: ImageConfig,
        chunk_size: int | None = None,
        views: ImageSchedule | None = None,
    ) -> None:
        super().__init__()
        self.chunk_size = chunk_size
        self.clips = clips
        self.weights = weights
        self.images = images
        self.views = views
        self.step = 0

    def forward(self, batch: ClipsBatch) -> ClipsOutput:
        """Both towers and the captioner on one batch."""
        # Composer moves tensors and collections of them, not a batch with named fields.
        batch = batch.to(self.clips.logit_scale.device, non_blocking=True)
        images_BCHW = normalize(batch.images_BCHW, self.images.mean, self.images.std)
        kept_BK = None
        if self.views is not None and self.training:
            images_BCHW = self.views.resized(images_BCHW, self.step)
            kept_BK = self.views.kept(len(batch), self.step)
            kept_BK = None if kept_BK is None else kept_BK.to(images_BCHW.device, non_blocking=True)
        inputs = images_BCHW, batch.web_ids_BL, batch.fragment_ids_BL, batch.target_ids_BT
        output: ClipsOutput
        if self.chunk_size is not None and self.chunk_size < len(batch):
            output = forward_in_chunks(self.clips, *inputs, self.chunk_size)
        else:
            output = self.clips(*inputs, kept_BK)
        return output._replace(logit_scale=output.logit_scale.reshape(()))

    def loss(self, outputs: ClipsOutput, batch: ClipsBatch) -> dict[str, Tensor]:
        """The total, which Composer differentiates, and those of its parts that the method has, which it logs."""
        group = torch.distributed.group.WORLD if torch.distributed.is_initialized() else None
        captioner = self.clips.captioner
        head_VD = None if captioner is None else captioner.head.weight
        parts = clips_loss(outputs, head_VD, self.weights, group=group)
        found = {name: value.detach() for name, value in parts._asdict().items() if value is not None}
        return found | {"total": parts.total}

    def eval_forward(self, batch: Any, outputs: Any = None) -> Any:
        """Not used: evaluation runs through `evaluation.measure_retrieval`, which needs every row at once."""
        raise NotImplementedError("evaluation during training runs in training.retrieval_probe")

    def get_metrics(self, is_train: bool = False) -> Mapping[str, Any]:
        """No torchmetrics: they would keep state in checkpoints."""
        return {}
