"""Packing against boolean indexing, in float64."""

import torch

from clips_pipeline.models.rows.packing import Packing

KEEP = torch.tensor([[True, True, False, True], [False, False, False, True], [True, True, True, True]])


def test_pack_takes_the_tokens_row_by_row_and_unpack_puts_them_back():
    x = torch.arange(24.0).view(3, 4, 2)
    packing = Packing.of(KEEP)
    assert torch.equal(packing.pack(x), x[KEEP])
    assert torch.equal(packing.unpack(x[KEEP]), x * KEEP[..., None])


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    packing = Packing.of(KEEP)
    rows = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(8, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(packing.pack, (rows,))
    assert torch.autograd.gradcheck(packing.unpack, (tokens,))


def test_last_is_the_last_token_of_each_row():
    assert Packing.of(KEEP).last_token().tolist() == [2, 3, 7]
