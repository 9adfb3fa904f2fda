"""Gradient caching: towers and captioner process a batch in chunks, the losses see the whole batch.

The activations of a chunk are discarded and recomputed in the backward pass (activation checkpointing), so only one chunk's
activations are in memory at a time; its features and captioner states stay. Negatives come from the whole batch, while gradient
accumulation over micro-batches would have fewer. The cost is a second forward pass.

Shapes: B batch, R rows of a chunk, E embedding, D captioner width, N valid target positions.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from clips_pipeline.models.clips import ClipsModel, ClipsOutput
from clips_pipeline.models.rows.layout import StepLayout, step_layout


def forward_in_chunks(
    model: ClipsModel,
    images_BCHW: Tensor,
    web_ids_BL: Tensor,
    fragment_ids_BL: Tensor,
    target_ids_BT: Tensor,
    chunk: int,
    captioned_BI: Tensor | None = None,
    layout: StepLayout | None = None,
) -> ClipsOutput:
    """Compute `model(...)` in chunks, with the same values and gradients.

    Rows of similar target length share a chunk, since the attention of a chunk is as long as its longest row. The captioner's
    states therefore come in another order, which does not matter to the caption loss, a mean over all of them.

    The activations of the last chunk are kept: its backward pass is the first, when those of no other chunk exist.

    Args:
        model: the model, in training mode.
        images_BCHW: as in `ClipsModel.forward`.
        web_ids_BL: as in `ClipsModel.forward`.
        fragment_ids_BL: as in `ClipsModel.forward`.
        target_ids_BT: as in `ClipsModel.forward`.
        chunk: rows of a chunk.
        captioned_BI: as in `ClipsModel.forward`.
        layout: layout of these rows in chunks of this size, as the loader computes it; None computes it here.

    Raises:
        ValueError: `chunk` is below 1.
    """
    rows = images_BCHW, web_ids_BL, fragment_ids_BL, target_ids_BT
    if layout is None:
        layout = step_layout(model.config, web_ids_BL, fragment_ids_BL, target_ids_BT, chunk=chunk)
        layout = layout.to(images_BCHW.device)
    order, inverse_B = layout.order()
    parts = []
    for number, (rows_R, its_layout) in enumerate(zip(order, layout.chunks(), strict=True)):
        images, web_ids, fragment_ids, target_ids = (tensor.index_select(0, rows_R) for tensor in rows)
        captioned = None if captioned_BI is None else captioned_BI.index_select(0, rows_R)
        inputs = images, web_ids, fragment_ids, target_ids, None, captioned, its_layout
        if number == len(order) - 1:
            parts.append(model.encode_all(*inputs))
            continue
        # The model uses no random numbers, so their state need not be restored.
        parts.append(checkpoint(model.encode_all, *inputs, use_reentrant=False, preserve_rng_state=False))
    image, web, fragment, hidden, targets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    image_BE, web_BE, fragment_BE = (features.index_select(0, inverse_B) for features in (image, web, fragment))
    return model.output(image_BE, web_BE, fragment_BE, hidden, targets)
