"""Method captioning against a naive implementation in float64: no text tower, some image tokens, autoregressive captions."""

import dataclasses

import pytest
import torch
from tests import naive
from tests.golden_weights import GOLDEN_CONFIG
from tests.unit.models.test_methods import teacher_forced_logits
from torch.nn import functional

from clips_pipeline.config import ConfigError
from clips_pipeline.losses.total import LossWeights, clips_loss
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.flops import forward_flops_by_part
from clips_pipeline.models.grad_cache import forward_in_chunks

CONFIG = dataclasses.replace(
    GOLDEN_CONFIG,
    captioner=dataclasses.replace(GOLDEN_CONFIG.captioner, inputs="tokens"),
    embed_dim=GOLDEN_CONFIG.vision.width,
    text_tower=False,
)


@pytest.fixture
def model() -> ClipsModel:
    torch.manual_seed(1)
    found = ClipsModel(CONFIG).double()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return found


def batch() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, 3, 32, 32, generator=generator, dtype=torch.float64)
    target = naive.rows(generator, 3, 9, 4, cls=None)
    return images, target[:, :0], target[:, :0], target


@pytest.mark.parametrize("kept", [None, torch.tensor([[0, 5, 9], [1, 2, 15], [3, 4, 7]])])
@pytest.mark.parametrize("chunk", [None, 2])
def test_loss_and_every_gradient(model: ClipsModel, kept: torch.Tensor | None, chunk: int | None) -> None:
    inputs = batch()
    output = model(*inputs, None, kept) if chunk is None else forward_in_chunks(model, *inputs, chunk, kept)
    parts = clips_loss(output, model.captioner.head.weight, LossWeights(1.0, 2.0))
    assert (parts.contrastive, parts.contrastive_web, parts.contrastive_fragment) == (None, None, None)
    tokens = model.vision(inputs[0]).tokens_BPD
    if kept is not None:
        tokens = torch.stack([row[places] for row, places in zip(tokens, kept, strict=True)])
    logits = teacher_forced_logits(model, tokens, inputs[3][:, :-1])
    expected = naive.caption(functional.pad(logits, (0, 0, 0, 1)), inputs[3])
    assert float((parts.caption - expected).abs()) < 1e-9
    names, parameters = zip(*model.named_parameters(), strict=True)
    # Without `allow_unused`: the model has no parameter that is not trained.
    gradients = torch.autograd.grad(parts.total, parameters)
    for name, gradient, other in zip(names, gradients, torch.autograd.grad(2 * expected, parameters), strict=True):
        assert float((gradient - other).abs().max()) < 1e-9, name


def test_there_is_no_text_tower_and_the_vision_tower_starts_like_that_of_coca(model: ClipsModel) -> None:
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"vision", "captioner"}
    with pytest.raises(ValueError, match=r"no text tower: it was trained with train\.method captioning"):
        model.encode_text(torch.zeros(1, 12, dtype=torch.long))
    images = batch()[0]
    feature = model.encode_image(images)
    torch.testing.assert_close(feature, naive.unit(model.vision(images).tokens_BPD.mean(1)))
    torch.manual_seed(7)
    alone = ClipsModel(CONFIG).state_dict()
    torch.manual_seed(7)
    both = ClipsModel(dataclasses.replace(CONFIG, text_tower=True)).state_dict()
    shared = [name for name in alone if name.startswith("vision.blocks")]
    assert shared
    assert all(torch.equal(alone[name], both[name]) for name in shared)


def test_flops_have_no_text_tower_and_count_the_tokens_that_are_read() -> None:
    whole = forward_flops_by_part(CONFIG, 0, (), 8)
    part = forward_flops_by_part(CONFIG, 0, (), 8, 0.25)
    assert set(whole) == {"vision tower", "captioner", "vocabulary head"}
    assert part["captioner"] < whole["captioner"]
    assert part["vision tower"] == whole["vision tower"]
    several = forward_flops_by_part(GOLDEN_CONFIG, 12, (6, 4), 8)["text tower"]
    assert (
        several
        == sum(forward_flops_by_part(GOLDEN_CONFIG, 12, length, 8)["text tower"] for length in (6, 4))
        - forward_flops_by_part(GOLDEN_CONFIG, 12, 0, 8)["text tower"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captioner": GOLDEN_CONFIG.captioner}, "text_tower: without one, the model needs a captioner"),
        ({"captioner": None}, "text_tower: without one, the model needs a captioner"),
        ({"embed_dim": 24}, "embed_dim: 24, but without a text tower it is the width of the vision tower; set 48"),
    ],
)
def test_configurations_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **changes)
