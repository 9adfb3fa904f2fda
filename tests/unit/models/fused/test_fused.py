"""Fused functions against the plain modules: values and every gradient."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from clips_pipeline.models.fused import tiling
from clips_pipeline.models.fused.mlp import norm_mlp
from clips_pipeline.models.fused.projections import add_projection, joined_projections, norm_projections
from clips_pipeline.models.precision import BlockNorm
from clips_pipeline.models.rows.packing import Packing

WIDTH = 8
KEEP = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()


class BlockPart(nn.Module):
    """The parts of half a block, with no value (0, 1) that hides an error."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.norm = BlockNorm(WIDTH)
        self.projections = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        draws = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=draws)
        self.to(dtype)


@pytest.fixture(params=["one tile", "groups of 3 rows"])
def half(request, monkeypatch):
    monkeypatch.setattr(tiling, "TILE_BYTES", 2**20 if request.param == "one tile" else 3 * 4 * WIDTH * 8)
    return BlockPart()


def rows(*shape, dtype=torch.float64):
    return torch.randn(*shape, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(1), requires_grad=True)


def equal(made, naive, inputs):
    """Assert equal values, and equal gradients of the same weighted sum by all `inputs`."""
    results = []
    for tensors in (made, naive):
        draws = torch.Generator().manual_seed(2)
        total = sum((t * torch.randn(t.shape, dtype=t.dtype, generator=draws)).sum() for t in tensors)
        gradients = torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=True)
        results.append([*tensors, *gradients])
    for ours, theirs in zip(*results, strict=True):
        if theirs is None:
            assert ours is None or not ours.any()
        else:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("parts", [(0, 1, 2), (1, 2), (0,)])
@pytest.mark.parametrize("shape", [(7,), (2, 5)])
def test_projections(half, parts, shape):
    x = rows(*shape)
    every = half.projections(half.norm(x)).chunk(3, dim=-1)
    made = norm_projections(x, half.norm, half.projections, parts, None)
    inputs = [x, *half.norm.parameters(), *half.projections.parameters()]
    equal(made, [every[part] for part in parts], inputs)


def test_projections_of_which_one_is_not_used(half):
    x = rows(7)
    first, _, third = norm_projections(x, half.norm, half.projections, (0, 1, 2), None)
    naive = half.projections(half.norm(x)).chunk(3, dim=-1)
    equal([first, third], [naive[0], naive[2]], [x, *half.projections.parameters()])


@pytest.mark.parametrize("parts", [(0, 1, 2), (1, 2), (0,)])
def test_projections_of_packed_rows(half, parts):
    x, packing = rows(8), Packing.of(KEEP)
    every = half.projections(half.norm(x)).chunk(3, dim=-1)
    made = norm_projections(x, half.norm, half.projections, parts, packing)
    inputs = [x, *half.norm.parameters(), *half.projections.parameters()]
    equal(made, [packing.unpack(every[part]) for part in parts], inputs)


@pytest.mark.parametrize("gelu", ["none", "tanh"])
@pytest.mark.parametrize("shape", [(7,), (2, 5), (0,)])
def test_mlp(half, gelu, shape):
    x = rows(*shape)
    made = norm_mlp(x, half.norm, half.wide, half.narrow, gelu)
    naive = x + half.narrow(functional.gelu(half.wide(half.norm(x)), approximate=gelu))
    inputs = [x, *half.norm.parameters(), *half.wide.parameters(), *half.narrow.parameters()]
    equal([made], [naive], inputs)


def test_frozen_layers_get_no_gradient_and_earlier_layers_do(half):
    for layer in (half.norm, half.wide, half.narrow, half.projections, half.out):
        layer.requires_grad_(False)
    x = rows(7)
    made = norm_mlp(x, half.norm, half.wide, half.narrow, "tanh")
    naive = x + half.narrow(functional.gelu(half.wide(half.norm(x)), approximate="tanh"))
    equal([made], [naive], [x])
    equal(
        norm_projections(x, half.norm, half.projections, (0, 1), None),
        half.projections(half.norm(x)).chunk(3, dim=-1)[:2],
        [x],
    )
    half.narrow.requires_grad_(True)
    fixed = x.detach()
    made = norm_mlp(fixed, half.norm, half.wide, half.narrow, "tanh")
    naive = fixed + half.narrow(functional.gelu(half.wide(half.norm(fixed)), approximate="tanh"))
    equal([made], [naive], list(half.narrow.parameters()))


def test_projection_after_attention(half):
    mixed = rows(3, 4)
    x = rows(3, 4) * 2
    equal([add_projection(x, mixed, half.out, None)], [x + half.out(mixed)], [x, mixed, *half.out.parameters()])
    tokens = x[KEEP]
    made = add_projection(tokens, mixed, half.out, Packing.of(KEEP))
    equal([made], [tokens + half.out(mixed[KEEP])], [x, mixed, *half.out.parameters()])


@pytest.mark.parametrize("queries", [True, False])
@pytest.mark.parametrize("padding", ["padding", "no padding"])
def test_joined_projections(half, padding, queries):
    packing, own_packing = Packing.of(KEEP), Packing.of(KEEP[:, 1:])
    own = rows(int(KEEP[:, 1:].sum())) + 1
    before = rows(8) if padding == "padding" else rows(3, 4)
    made = joined_projections(
        before,
        own,
        half.norm,
        half.projections,
        packing if padding == "padding" else None,
        own_packing,
        queries=queries,
    )
    q, k, v = half.projections(half.norm(before)).chunk(3, dim=-1)
    if padding == "padding":
        q, k, v = (packing.unpack(part) for part in (q, k, v))
    own_q, own_k, own_v = (own_packing.unpack(part) for part in half.projections(half.norm(own)).chunk(3, dim=-1))
    naive = [torch.cat([k, own_k], dim=1), torch.cat([v, own_v], dim=1)]
    equal(
        made,
        [q, own_q, *naive] if queries else naive,
        [before, own, *half.norm.parameters(), *half.projections.parameters()],
    )


def test_only_the_input_is_saved():
    """Norm and MLP save nothing but their input rows for the backward pass."""
    half, kept = BlockPart(), []
    x = rows(7)

    def note(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        norm_mlp(x, half.norm, half.wide, half.narrow, "tanh")
    weights = {parameter.data_ptr() for parameter in half.parameters()}
    assert [tensor.data_ptr() for tensor in kept if tensor.data_ptr() not in weights] == [x.data_ptr()]


def test_autocast_multiplies_in_bfloat16_as_the_modules_do():
    half, x = BlockPart(torch.float32), rows(16, dtype=torch.float32)
    parameters = [x, *half.norm.parameters(), *half.wide.parameters(), *half.narrow.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = norm_mlp(x, half.norm, half.wide, half.narrow, "tanh")
        naive = x + half.narrow(functional.gelu(half.wide(half.norm(x)), approximate="tanh"))
        (q,) = norm_projections(x, half.norm, half.projections, (0,), None)
    assert (made.dtype, q.dtype) == (torch.float32, torch.bfloat16)
    exact = norm_mlp(x, half.norm, half.wide, half.narrow, "tanh")
    assert not torch.equal(made, exact)
    size = float(exact.detach().abs().mean())
    assert float((made - exact).detach().abs().mean()) < 0.02 * size
    assert float((naive - exact).detach().abs().mean()) < 0.02 * size
    for ours, exactly in zip(
        torch.autograd.grad(made.sum(), parameters), torch.autograd.grad(exact.sum(), parameters), strict=True
    ):
        assert ours.dtype == torch.float32
        assert float((ours - exactly).norm()) < 0.03 * float(exactly.norm()) + 1e-6


def test_a_buffer_allocated_in_inference_mode_works_in_training():
    half, x = BlockPart(), rows(7)
    with torch.inference_mode():
        norm_mlp(x, half.norm, half.wide, half.narrow, "tanh")
    norm_mlp(x, half.norm, half.wide, half.narrow, "tanh").sum().backward()
    assert x.grad is not None
