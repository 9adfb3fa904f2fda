"""Which parameters decay, by the kind of their module; the authors' own list is in tests/unit/models."""

from tests.golden_weights import GOLDEN_CONFIG
from torch import nn

from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.training.config import OptimizerConfig
from clips_pipeline.training.optimizer import adamw, decayed_names, parameter_groups


def test_every_parameter_is_in_exactly_one_group():
    model = ClipsModel(GOLDEN_CONFIG)
    groups = parameter_groups(model, 0.2)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in model.parameters())
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]


def test_matrices_that_are_no_matrix_products_do_not_decay():
    decayed = decayed_names(ClipsModel(GOLDEN_CONFIG))
    for name in (
        "text.token_embedding.weight",
        "text.positions_LD",
        "captioner.queries_QD",
        "vision.cls_D",
        "logit_scale",
    ):
        assert name not in decayed
    for name in (
        "vision.patches.weight",
        "captioner.head.weight",
        "captioner.image_projection.weight",
        "text.head.weight",
    ):
        assert name in decayed


def test_a_bare_layer_and_frozen_parameters():
    layer = nn.Linear(2, 3)
    layer.bias.requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(layer, 0.1)] == [1, 0]


def test_the_configuration_reaches_the_optimizer():
    optimizer = adamw(
        nn.Linear(2, 2), OptimizerConfig(peak_lr=0.5, beta1=0.8, beta2=0.9, epsilon=1e-6, weight_decay=0.3)
    )
    decayed, plain = optimizer.param_groups
    assert (decayed["lr"], decayed["betas"], decayed["eps"], decayed["weight_decay"]) == (0.5, (0.8, 0.9), 1e-6, 0.3)
    assert (plain["lr"], plain["weight_decay"]) == (0.5, 0.0)
