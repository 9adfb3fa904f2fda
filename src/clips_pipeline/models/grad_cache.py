"""A large batch in small memory: towers and captioner go through it in chunks, the losses see all of it.

Each chunk's activations are thrown away and made again in the backward pass (activation checkpointing), so that one chunk at a
time takes memory; what stays is its features and its captioner's states. Negatives are those of the whole batch, which
accumulating gradients over micro-batches would shrink. The price is a second forward pass.

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
) -> ClipsOutput:
    """`model(...)` with the same values and gradients.

    Rows of similar target length share a chunk, since a chunk's attention is as long as its longest row. The order of the
    captioner's states differs from the plain one, which the caption loss, a mean over all, does not see.

    Args:
        model: in training.
        images_BCHW: as in `ClipsModel.forward`, likewise the rest.
        web_ids_BL: see there.
        fragment_ids_BL: see there.
        target_ids_BT: see there.
        chunk: rows at a time.

    Raises:
        ValueError: `chunk` is below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; use 1 or more")
    lengths_B = (target_ids_BT != model.config.text.pad_id).sum(dim=1)
    order_B = lengths_B.argsort(stable=True)
    parts = []
    for rows_R in torch.split(order_B, chunk):
        inputs = [whole.index_select(0, rows_R) for whole in (images_BCHW, web_ids_BL, fragment_ids_BL, target_ids_BT)]
        # No randomness in the model: nothing to be put back.
        parts.append(checkpoint(model.encode_all, *inputs, use_reentrant=False, preserve_rng_state=False))
    image, web, fragment, hidden, targets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    back_B = order_B.argsort()
    image_BE, web_BE, fragment_BE = (features.index_select(0, back_B) for features in (image, web, fragment))
    return ClipsOutput(image_BE, web_BE, fragment_BE, model.logit_scale.exp(), hidden, targets)
