"""Attention masks: padding in the towers, and the captioner's prefix-causal decoder mask. CLIPS paper, section 3.

Which positions attend to which in the captioner, for a prefix (image and web caption) and Q = 3 queries:

    ================  ======  ==  ==  ==
    row attends to    prefix  q1  q2  q3
    ================  ======  ==  ==  ==
    each prefix token yes     no  no  no
    q1                yes     yes no  no
    q2                yes     yes yes no
    q3                yes     yes yes yes
    ================  ======  ==  ==  ==

Nothing attends to padding. The dense (P + Q, P + Q) mask is not needed: prefix rows attend to the whole prefix, so only the last
Q rows need a mask. `tests/unit/models/test_attention_masks.py` compares them with the dense mask.

Shapes: B batch, S sequence, P prefix, Q queries.
"""

import torch
from torch import Tensor
from torch.nn import functional

from clips_pipeline.models.fused.packing import Packing


def key_mask(packing: Packing | None) -> Tensor | None:
    """Return the mask (B, 1, 1, S), True at keys that are not padding; None without padding."""
    return None if packing is None else packing.keep_BS[:, None, None, :]


def prefix_causal_mask(prefix: int, prefix_packing: Packing | None, packing: Packing, dtype: torch.dtype) -> Tensor:
    """Return the last Q rows of the decoder mask: query i attends to the prefix without padding, itself and earlier queries.

    The mask is additive (0 or minus infinity): every attention would convert a boolean mask to this tensor again and save it.
    Fused kernels accept it. Their own causal flag cannot be used, since it aligns the triangle with the upper left corner.

    Args:
        prefix: P.
        prefix_packing: packing of the prefix; None without padding.
        packing: packing of the queries in (B, Q).
        dtype: dtype of the attention.

    Returns:
        (Q, P + Q), or (B, 1, Q, P + Q) if the prefix has padding.
    """
    queries = packing.keep_BS.shape[1]
    attends = torch.ones(queries, prefix + queries, dtype=torch.bool, device=packing.keep_BS.device).tril(prefix)
    if prefix_packing is not None:
        attends = attends & functional.pad(prefix_packing.keep_BS, (0, queries), value=True)[:, None, None, :]
    return torch.zeros(attends.shape, dtype=dtype, device=attends.device).masked_fill_(~attends, float("-inf"))
