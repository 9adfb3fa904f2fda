"""Muon and LAMB against naive steps in float64; groups, options, and names that cannot be used."""

import dataclasses

import pytest
import torch
from tests.golden_weights import GOLDEN_CONFIG
from torch import Tensor, nn

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.training.config import OptimizerConfig, TrainConfig
from clips_pipeline.training.optimizer import check_optimizer, hidden_names, make_optimizer

LR, DECAY, BETAS, EPSILON = 0.01, 0.1, (0.9, 0.95), 1e-8
STEPS = 3
COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def small() -> nn.Module:
    torch.manual_seed(0)
    parts = {"embed": nn.Embedding(5, 4), "inner": nn.Linear(4, 6), "norm": nn.LayerNorm(6), "head": nn.Linear(6, 3)}
    return nn.ModuleDict(parts).double()


def gradients(model: nn.Module) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in model.named_parameters()}
        for _ in range(STEPS)
    ]


def run(model: nn.Module, config: OptimizerConfig) -> dict[str, Tensor]:
    optimizer = make_optimizer(model, config)
    for step in gradients(model):
        for name, parameter in model.named_parameters():
            parameter.grad = step[name]
        optimizer.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def decay_of(name: str) -> float:
    return DECAY if name in ("inner.weight", "head.weight") else 0.0


def orthogonalized(update: Tensor, epsilon: float) -> Tensor:
    """Five steps of Newton-Schulz with the coefficients of modded-nanogpt (timm's "quintic"), in bfloat16 as they are run."""
    x = update.bfloat16()
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    x = x / x.norm(2).clamp(min=epsilon)
    for a, b, c in COEFFICIENTS:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if turned else x).to(update.dtype)


def adamw_step(p: Tensor, g: Tensor, state: dict[str, Tensor], step: int, decay: float) -> Tensor:
    m = state["m"] = BETAS[0] * state.get("m", torch.zeros_like(p)) + (1 - BETAS[0]) * g
    v = state["v"] = BETAS[1] * state.get("v", torch.zeros_like(p)) + (1 - BETAS[1]) * g * g
    p = p * (1 - LR * decay)
    return p - LR * (m / (1 - BETAS[0] ** step)) / ((v / (1 - BETAS[1] ** step)).sqrt() + EPSILON)


def test_muon_on_hidden_matrices_and_adamw_on_the_rest() -> None:
    model = small()
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    states: dict[str, dict[str, Tensor]] = {name: {} for name in expected}
    for step, found in enumerate(gradients(model), start=1):
        for name, p in expected.items():
            if name != "inner.weight":
                expected[name] = adamw_step(p, found[name], states[name], step, decay_of(name))
                continue
            buffer = states[name]["m"] = 0.95 * states[name].get("m", torch.zeros_like(p)) + 0.05 * found[name]
            scale = 0.2 * max(p.shape) ** 0.5  # as large as an update of AdamW
            expected[name] = p * (1 - LR * DECAY) - LR * scale * orthogonalized(buffer, EPSILON)
    ours = run(model, OptimizerConfig(name="muon", peak_lr=LR, final_lr=0.0, weight_decay=DECAY))
    for name, value in expected.items():
        limit = 2e-4 if name == "inner.weight" else 1e-12
        assert float((ours[name] - value).abs().max()) < limit, name


def test_lamb() -> None:
    model = small()
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    m = {name: torch.zeros_like(p) for name, p in expected.items()}
    v = {name: torch.zeros_like(p) for name, p in expected.items()}
    for step, found in enumerate(gradients(model), start=1):
        for name, p in expected.items():
            g = found[name]
            m[name] = BETAS[0] * m[name] + (1 - BETAS[0]) * g
            v[name] = BETAS[1] * v[name] + (1 - BETAS[1]) * g * g
            update = (m[name] / (1 - BETAS[0] ** step)) / ((v[name] / (1 - BETAS[1] ** step)).sqrt() + EPSILON)
            trust = torch.tensor(1.0, dtype=p.dtype)
            if decay_of(name):
                update = update + DECAY * p
                trust = p.norm() / update.norm()
            expected[name] = p - LR * trust * update
    config = OptimizerConfig(name="lamb", options={"max_grad_norm": None}, peak_lr=LR, final_lr=0.0, weight_decay=DECAY)
    for name, value in run(model, config).items():
        assert float((value - expected[name]).abs().max()) < 1e-10, name


def test_hidden_matrices_are_neither_heads_nor_embeddings_and_each_parameter_is_in_one_group() -> None:
    model = ClipsModel(dataclasses.replace(GOLDEN_CONFIG, contrastive="sigmoid"))
    hidden = hidden_names(model)
    assert "vision.blocks.0.attn.in_proj.weight" in hidden
    assert "captioner.text_projection.weight" in hidden
    for name in ("vision.patches.weight", "text.head.weight", "captioner.head.weight", "text.token_embedding.weight"):
        assert name not in hidden
    model.vision.requires_grad_(False)
    trained = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    groups = make_optimizer(model, OptimizerConfig(name="muon")).param_groups
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(trained)
    assert {trained[id(p)] for p in groups[0]["params"]} == hidden & set(trained.values())
    assert [(group["weight_decay"], group.get("use_fallback", False)) for group in groups] == [
        (0.2, False),
        (0.2, True),
        (0.0, True),
    ]


@pytest.mark.parametrize("name", ["lion", "sgd", "nadamw", "adan", "adafactor", "adopt", "adamuon", "lars"])
def test_others_of_timm(name: str) -> None:
    model = small()
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    after = run(model, OptimizerConfig(name=name, peak_lr=1e-3, final_lr=0.0))
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not torch.equal(after["inner.weight"], before["inner.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "moun"}, r"train\.optimizer\.name: 'moun' is unknown; did you mean 'muon'\? Known: .*adamw.*muon"),
        ({"name": "adahessian"}, "'adahessian' is unknown"),
        ({"name": "fusedlamb"}, "'fusedlamb' is unknown"),
        ({"name": "muon", "options": {"lr": 0.1}}, r"options\.lr: has a key of its own; set train\.optimizer\.peak_lr"),
        (
            {"name": "lamb", "options": {"momentum": 0.1}},
            r"options\.momentum: lamb has no such option; it has .*trust_clip",
        ),
        ({"name": "muon", "options": {"conv_mode": "x"}}, r"muon cannot be made: Invalid conv_mode: x"),
    ],
)
def test_names_and_options_that_cannot_be_used(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_optimizer(OptimizerConfig(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"options": {"amsgrad": True}}}, r"train\.optimizer\.options: adamw has none"),
        (
            {"optimizer": {"name": "muon"}, "launch": {"sharding": "fsdp2"}},
            r"train\.optimizer\.name: muon needs whole matrices .* use adamw, or sharding none",
        ),
        (
            {"method": "captioning", "loss": {"contrastive": "sigmoid"}},
            r"train\.loss\.contrastive: sigmoid, and method",
        ),
        ({"method": "captioning", "loss": {"caption_weight": 0.0}}, r"train\.loss\.caption_weight: 0, and method"),
        (
            {"method": "captioning", "freeze": ["text"]},
            r"train\.freeze: method 'captioning' has no text tower; its parts",
        ),
        ({"method": "captioning", "model": {"text_weights": "a"}}, r"train\.model\.text_weights: method 'captioning'"),
        ({"method": "clip", "model": {"image_tokens_kept": 0.3}}, r"train\.model\.image_tokens_kept: method 'clip'"),
        ({"method": "coca", "captions": {"positives": 2}}, r"train\.captions\.positives: 2, and method 'coca'"),
        ({"captions": {"positives": 0}}, r"train\.captions\.positives: 0 must be at least 1"),
    ],
)
def test_combinations_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, changes, "train")


def test_options_of_yaml_and_the_fingerprint() -> None:
    train = from_mapping(
        TrainConfig, {"optimizer": {"name": "adan", "options": {"betas": [0.98, 0.92, 0.99], "caution": True}}}, "train"
    )
    assert train.optimizer.options == {"betas": (0.98, 0.92, 0.99), "caution": True}
    check_optimizer(train.optimizer)
