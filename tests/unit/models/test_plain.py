"""The plain towers against the towers of the training: values, and what only plain modules can do."""

import dataclasses
from typing import Literal

import pytest
import torch
from tests import naive
from tests.small_model import small_model

from clips_pipeline.interop.export.transformers_form import plain_towers
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.plain import PlainText, PlainVision

Padding = Literal["attend", "mask"]


def build(padding: Padding, *, stored: bool = False) -> tuple[ClipsModel, PlainVision, PlainText]:
    """Return a random model with its two plain towers, in float64."""
    config = small_model()
    positions: Literal["computed", "stored"] = "stored" if stored else "computed"
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, positions=positions, depth=2),
        text=dataclasses.replace(config.text, padding=padding, depth=2),
    )
    torch.manual_seed(0)
    model = ClipsModel(config).double().eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(0.3 * torch.randn_like(tensor))
    return model, *plain_towers(model)


def rows(count: int) -> torch.Tensor:
    return naive.rows(torch.Generator().manual_seed(1), count, 24, 15, cls=4, vocab=300)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["attend", "mask"])
@pytest.mark.parametrize("stored", [False, True])
def test_features_are_equal(padding: Padding, *, stored: bool) -> None:
    model, vision, text = build(padding, stored=stored)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert torch.allclose(vision(images), model.encode_image(images), rtol=0, atol=1e-7)
    assert torch.allclose(text(rows(5)), model.encode_text(rows(5)), rtol=0, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["attend", "mask"])
def test_torch_export_takes_batches_of_any_size(padding: Padding) -> None:
    _, vision, text = build(padding)
    batch = torch.export.Dim("batch", min=1, max=65_536)
    for tower, example, other in (
        (vision, torch.randn(2, 3, 32, 32).double(), torch.randn(5, 3, 32, 32).double()),
        (text, rows(2), rows(5)),
    ):
        exported = torch.export.export(tower, (example,), dynamic_shapes=({0: batch},)).module()
        assert torch.allclose(exported(other), tower(other), rtol=0, atol=1e-9)
