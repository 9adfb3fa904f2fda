"""The residual stream in bfloat16: where it is, and that a model learns with it as with float32.

A CPU has autocast too; the configuration refuses it there only because it is slower.
"""

import pytest
import torch
from tests import naive
from tests.small_model import small_model

from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.blocks import use_implementation
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.precision import halve_stream


def build(halves: bool, implementation: str) -> ClipsModel:
    torch.manual_seed(3)
    model = ClipsModel(small_model())
    use_implementation(model, implementation)
    halve_stream(model, halves)
    return model


def batch(size: int = 8) -> tuple[torch.Tensor, ...]:
    draws = torch.Generator().manual_seed(4)
    images = torch.randn(size, 3, 32, 32, generator=draws)
    rows = [naive.rows(draws, size, 24, 15, cls=4, vocab=300) for _ in range(2)]
    return images, *rows, naive.rows(draws, size, 24, 15, cls=None, vocab=300)


@pytest.mark.parametrize("implementation", ["auto", "plain"])
@pytest.mark.parametrize("halves", [False, True])
def test_the_dtype_between_blocks(halves: bool, implementation: str) -> None:
    model, seen = build(halves, implementation), []
    for tower in (model.vision, model.text, model.captioner):
        # Of the block itself, so that it may be fused.
        tower.blocks[0].register_forward_hook(lambda module, args, output: seen.append((args[0].dtype, output.dtype)))
    wanted = torch.bfloat16 if halves else torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        output = model(*batch())
    assert seen
    assert set(seen) == {(wanted, wanted)}
    assert {output.image_BE.dtype, output.web_BE.dtype, output.caption_hidden_ND.dtype} == {torch.float32}
    seen.clear()
    # Without autocast the model computes in the precision of its weights.
    model(*batch())
    assert set(seen) == {(torch.float32, torch.float32)}


@pytest.mark.parametrize("implementation", ["auto", "plain"])
def test_it_learns_as_with_float32(implementation: str) -> None:
    curves = []
    for halves in (False, True):
        model, inputs = build(halves, implementation), batch()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        curves.append([])
        for _ in range(30):
            with torch.autocast("cpu", torch.bfloat16):
                loss = clips_loss(model(*inputs), model.captioner.head.weight).total
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            curves[-1].append(float(loss))
    whole, half = curves
    assert half[0] == pytest.approx(whole[0], rel=5e-3)
    assert whole[-1] < 0.8 * whole[0]
    assert half[-1] == pytest.approx(whole[-1], rel=0.03)
