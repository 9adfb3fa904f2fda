"""Attention masks: padding masks (`padding: mask`) and the captioner's prefix-causal mask. CLIPS paper, section 3.

Which positions attend to which in the captioner, for a prefix (image and web caption) and Q = 3 queries:

    =================  ======  ===  ===  ===
    query ↓ key →      prefix  q1   q2   q3
    =================  ======  ===  ===  ===
    each prefix token  yes     no   no   no
    q1                 yes     yes  no   no
    q2                 yes     yes  yes  no
    q3                 yes     yes  yes  yes
    =================  ======  ===  ===  ===

With `padding: mask`, no position attends to padding of the prefix. Queries need no padding mask: unused queries come after all
used ones, so the causal order hides them. The dense (P + Q, P + Q) mask is not needed: prefix rows attend to the whole prefix, so
only the last Q rows need a mask. `tests/unit/models/rows/test_masks.py` tests the result against the dense mask.

Shapes: B batch, S sequence, P prefix, Q queries.
"""

import torch
from torch import Tensor
from torch.nn import functional

from clips_pipeline.models.rows.packing import Packing


def key_mask(packing: Packing | None) -> Tensor | None:
    """Return the mask (B, 1, 1, S), True at keys that are not padding; None without padding.

    Args:
        packing: packing of the keys; None if no key is hidden.
    """
    return None if packing is None else packing.keep_BS[:, None, None, :]


def prefix_causal_mask(
    prefix_length: int, prefix_packing: Packing | None, query_packing: Packing, dtype: torch.dtype
) -> Tensor:
    """Return the last Q rows of the decoder mask: query i attends to the prefix without padding, itself and earlier queries.

    The mask is additive (0 or minus infinity), which fused kernels accept. With a boolean mask, each attention layer would build
    and save this tensor again. `is_causal=True` cannot be used: it aligns the mask to the upper left corner, but queries come
    after P prefix keys.

    Args:
        prefix_length: number of prefix positions, P.
        prefix_packing: packing of the prefix; None without padding.
        query_packing: packing of the queries in (B, Q).
        dtype: dtype of the attention.

    Returns:
        (Q, P + Q), or (B, 1, Q, P + Q) if the prefix has padding.
    """
    queries, device = query_packing.keep_BS.shape[1], query_packing.keep_BS.device
    attends = torch.ones(queries, prefix_length + queries, dtype=torch.bool, device=device).tril(prefix_length)
    if prefix_packing is not None:
        attends = attends & functional.pad(prefix_packing.keep_BS, (0, queries), value=True)[:, None, None, :]
    return torch.zeros(attends.shape, dtype=dtype, device=device).masked_fill_(~attends, float("-inf"))
