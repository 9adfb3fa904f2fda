"""Inference of few rows by PyTorch's own layers, against the fused layers of the training."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from tests import naive
from tests.small_model import small_model

from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.fused import block as fused_block
from clips_pipeline.models.fused import choice

Counter = Callable[[], int]


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Count the calls of the fused layers of a block."""
    calls = []
    for name in ("norm_mlp", "norm_projections", "add_projection"):
        function = getattr(fused_block, name)

        def counted(*args, function=function, **options):
            calls.append(function)
            return function(*args, **options)

        monkeypatch.setattr(fused_block, name, counted)
    return lambda: len(calls)


def model(padding: str) -> ClipsModel:
    config = small_model()
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, padding=padding, depth=2))
    torch.manual_seed(0)
    built = ClipsModel(config).double().eval()
    with torch.no_grad():
        for tensor in built.state_dict().values():
            tensor.copy_(0.3 * torch.randn_like(tensor))
    return built


@pytest.mark.parametrize("padding", ["attend", "mask"])
def test_few_rows_equal_the_fused_layers(padding: str, fused_calls: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    built, draws = model(padding), torch.Generator().manual_seed(1)
    size = built.config.vision.image_size
    images = torch.randn(2, 3, size, size, generator=draws, dtype=torch.float64)
    ids = naive.rows(draws, 2, 24, 15, cls=4, vocab=300)
    with torch.inference_mode():
        few = built.encode_image(images), built.encode_text(ids), built.caption_logits(images, ids)
        assert fused_calls() == 0
        monkeypatch.setattr(choice, "FEW_ROWS", 0)
        fused = built.encode_image(images), built.encode_text(ids), built.caption_logits(images, ids)
    assert fused_calls() > 0
    for one, other in zip(few, fused, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_training_and_many_rows_use_the_fused_layers(fused_calls: Counter) -> None:
    built = model("attend")
    size = built.config.vision.image_size
    images = torch.zeros(1, 3, size, size, dtype=torch.float64)
    built.encode_image(images)
    trained = fused_calls()
    assert trained > 0
    rows = 1 + built.config.vision.tokens
    with torch.inference_mode():
        built.encode_image(images.expand(200 // rows + 1, -1, -1, -1))
    assert fused_calls() > trained
