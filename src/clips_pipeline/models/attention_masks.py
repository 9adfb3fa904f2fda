"""Attention masks: padding in the towers, and the captioner's prefix-causal decoder mask. CLIPS paper, section 3.

What may look at what in the captioner, for a prefix of P = 3 tokens (image and web caption) and Q = 3 queries:

    ================  ======  ==  ==  ==
    row looks at      prefix  q1  q2  q3
    ================  ======  ==  ==  ==
    each prefix token yes     no  no  no
    q1                yes     yes no  no
    q2                yes     yes yes no
    q3                yes     yes yes yes
    ================  ======  ==  ==  ==

Padding is never looked at. The dense (P + Q, P + Q) mask is not needed: the prefix rows attend to the prefix alone, so only the
last Q rows have a mask. `tests/unit/models/test_attention_masks.py` compares them with the dense mask.

Shapes: B batch, S sequence, P prefix, Q queries.
"""

import torch
from torch import Tensor
from torch.nn import functional

from clips_pipeline.models.fused.packing import Packing


def key_mask(packing: Packing | None) -> Tensor | None:
    """(B, 1, 1, S): True at keys that are not padding; None where there is no padding."""
    return None if packing is None else packing.keep_BS[:, None, None, :]


def prefix_causal_mask(prefix: int, prefix_packing: Packing | None, packing: Packing, dtype: torch.dtype) -> Tensor:
    """The last Q rows of the decoder mask: query i sees the prefix without its padding, itself, and the queries before it.

    0 where a query may look and minus infinity elsewhere: from True and False, every attention would make this tensor again and
    keep it. Fused kernels accept it; their own causal flag aligns the triangle with the other corner.

    Args:
        prefix: P.
        prefix_packing: of the prefix; None where it has no padding.
        packing: of the queries in (B, Q).
        dtype: of the queries.

    Returns:
        (Q, P + Q), or (B, 1, Q, P + Q) where the prefix has padding.
    """
    queries = packing.keep_BS.shape[1]
    sees = torch.ones(queries, prefix + queries, dtype=torch.bool, device=packing.keep_BS.device).tril(prefix)
    if prefix_packing is not None:
        sees = sees & functional.pad(prefix_packing.keep_BS, (0, queries), value=True)[:, None, None, :]
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, float("-inf"))
