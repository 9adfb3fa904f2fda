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


def forward_in_chunks(
    model: ClipsModel,
    images_BCHW: Tensor,
    web_ids_BL: Tensor,
    fragment_ids_BL: Tensor,
    target_ids_BT: Tensor,
    chunk: int,
    captioned_BI: Tensor | None = None,
) -> ClipsOutput:
    """Compute `model(...)` in chunks, with the same values and gradients.

    Rows of similar target length share a chunk, since the attention of a chunk is as long as its longest row. The captioner's
    states therefore come in another order, which does not matter to the caption loss, a mean over all of them.

    Args:
        model: the model, in training mode.
        images_BCHW: as in `ClipsModel.forward`.
        web_ids_BL: as in `ClipsModel.forward`.
        fragment_ids_BL: as in `ClipsModel.forward`.
        target_ids_BT: as in `ClipsModel.forward`.
        chunk: rows of a chunk.
        captioned_BI: as in `ClipsModel.forward`.

    Raises:
        ValueError: `chunk` is below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; use 1 or more")
    lengths_B = (target_ids_BT != model.config.text.pad_id).sum(dim=1)
    order_B = lengths_B.argsort(stable=True)
    parts = []
    for rows_R in torch.split(order_B, chunk):
        rows = (images_BCHW, web_ids_BL, fragment_ids_BL, target_ids_BT, None, captioned_BI)
        inputs = [None if tensor is None else tensor.index_select(0, rows_R) for tensor in rows]
        # The model uses no random numbers, so their state need not be restored.
        parts.append(checkpoint(model.encode_all, *inputs, use_reentrant=False, preserve_rng_state=False))
    image, web, fragment, hidden, targets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    inverse_B = order_B.argsort()
    image_BE, web_BE, fragment_BE = (features.index_select(0, inverse_B) for features in (image, web, fragment))
    return model.output(image_BE, web_BE, fragment_BE, hidden, targets)
