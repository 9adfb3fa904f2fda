"""Decoder mask against the dense mask of the paper, and against the truth table of its module."""

import torch

from clips_pipeline.models.rows.masks import key_mask, prefix_causal_mask
from clips_pipeline.models.rows.packing import Packing

P, Q = 3, 3


def dense(prefix_keep_BP: torch.Tensor) -> torch.Tensor:
    """Return the dense mask (B, P + Q, P + Q), computed position by position."""
    rows = prefix_keep_BP.shape[0]
    sees = torch.zeros(rows, P + Q, P + Q, dtype=torch.bool)
    for row in range(rows):
        for query in range(P + Q):
            for key in range(P + Q):
                in_prefix = key < P and bool(prefix_keep_BP[row, key])
                before = query >= P and P <= key <= query
                sees[row, query, key] = in_prefix or before
    return sees


def test_truth_table() -> None:
    mask = prefix_causal_mask(P, None, Packing.of(torch.ones(1, Q, dtype=torch.bool)), torch.float32)
    assert (mask == 0).int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
    assert bool((mask[mask != 0] == float("-inf")).all())


def test_it_is_the_last_rows_of_the_dense_mask() -> None:
    keep_BP = torch.tensor([[True, True, True], [True, False, True], [True, True, False]])
    queries = Packing.of(torch.ones(3, Q, dtype=torch.bool))
    for dtype in (torch.float32, torch.bfloat16):
        mask = prefix_causal_mask(P, Packing.of(keep_BP), queries, dtype)
        assert mask.dtype == dtype
        assert torch.equal(mask[:, 0] == 0, dense(keep_BP)[:, P:])


def test_prefix_rows_attend_to_the_prefix_without_padding() -> None:
    keep_BP = torch.tensor([[True, True, True], [True, False, True]])
    found = key_mask(Packing.of(keep_BP))
    assert found is not None
    assert torch.equal(found.expand(2, 1, P, P)[:, 0], dense(keep_BP)[:, :P, :P])
    assert key_mask(None) is None
