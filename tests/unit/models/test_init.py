"""Initial values have mean 0 and the authors' standard deviation, within five standard errors."""

import dataclasses
import math

import pytest
import torch

from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import SIZES

TINY = SIZES["tiny"]
# Widths that differ, so that no deviation is right by accident.
CONFIG = dataclasses.replace(
    TINY,
    vision=dataclasses.replace(TINY.vision, width=192, depth=2),
    text=dataclasses.replace(TINY.text, width=128, depth=3),
    captioner=dataclasses.replace(TINY.captioner, width=64, depth=2),
    embed_dim=96,
)
EXPECTED = {
    "vision.cls_D": 1e-6,
    "vision.patches.weight": math.sqrt(2 / (3 * 32 * 32)),
    "vision.blocks.1.attn.in_proj.weight": 0.02,
    "vision.blocks.1.attn.out_proj.weight": 0.02,
    "vision.blocks.1.mlp.c_fc.weight": 0.02,
    "vision.blocks.1.mlp.c_proj.weight": math.sqrt(0.3072 / 192),
    "vision.head.weight": 0.02,
    "text.token_embedding.weight": 0.02,
    "text.positions_LD": 0.01,
    "text.blocks.2.attn.in_proj.weight": 128**-0.5,
    "text.blocks.2.attn.out_proj.weight": 128**-0.5 * 6**-0.5,
    "text.blocks.2.mlp.c_fc.weight": 256**-0.5,
    "text.blocks.2.mlp.c_proj.weight": 128**-0.5 * 6**-0.5,
    "text.head.weight": 128**-0.5,
    "captioner.queries_QD": 1.0,
    "captioner.image_projection.weight": 192**-0.5,
    "captioner.text_projection.weight": 128**-0.5,
    "captioner.blocks.1.attn.in_proj.weight": 64**-0.5,
    "captioner.blocks.1.attn.out_proj.weight": 64**-0.5 * 4**-0.5,
    "captioner.blocks.1.mlp.c_fc.weight": 128**-0.5,
    "captioner.blocks.1.mlp.c_proj.weight": 64**-0.5 * 4**-0.5,
    "captioner.head.weight": 64**-0.5,
}


@pytest.fixture(scope="module")
def parameters():
    torch.manual_seed(0)
    return {name: parameter.detach() for name, parameter in ClipsModel(CONFIG).named_parameters()}


@pytest.mark.parametrize("name", EXPECTED)
def test_deviation(parameters, name):
    values, expected = parameters[name].double(), EXPECTED[name]
    count = values.numel()
    assert abs(float(values.mean())) < 5 * expected / math.sqrt(count)
    # A normal's sample deviation has a standard error of sigma / sqrt(2 n); bounded draws less.
    assert float(values.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * count))


def test_bounded_draws_are_bounded(parameters):
    assert float(parameters["vision.patches.weight"].abs().max()) <= math.sqrt(6 / (3 * 32 * 32))
    scale = math.sqrt(0.3072 / 192) / 0.87962566103423978
    assert float(parameters["vision.blocks.0.mlp.c_proj.weight"].abs().max()) <= 2 * scale


def test_norms_biases_and_logit_scale(parameters):
    for name, values in parameters.items():
        if name.endswith("bias"):
            assert not values.any(), name
        elif "norm." in name or ".ln_" in name:
            assert bool((values == 1).all()), name
    assert float(parameters["logit_scale"]) == pytest.approx(math.log(1 / 0.07))


def test_every_parameter_is_covered(parameters):
    """A new parameter needs an initialization and a line above."""
    plain = {name.replace(".0.", ".1.").replace(".1.", ".N.").replace(".2.", ".N.") for name in EXPECTED}
    for name in parameters:
        general = name.replace(".0.", ".N.").replace(".1.", ".N.").replace(".2.", ".N.")
        assert (
            general in plain or name.endswith("bias") or "norm." in name or ".ln_" in name or name == "logit_scale"
        ), name


def test_the_same_seed_gives_the_same_model():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(ClipsModel(CONFIG).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
