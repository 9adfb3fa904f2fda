"""Hidden layers are kept where memory allows, and change nothing but time and memory."""

from typing import Any

import pytest
import torch
from tests import naive

from clips_pipeline.config import from_mapping
from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.blocks import keep_hidden_layers
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import SIZES
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.machine import hidden_layers
from clips_pipeline.training.machine.hidden_layers import hidden_bytes, keeps_hidden_layers


def config_of(**launch: Any) -> TrainConfig:
    return from_mapping(TrainConfig, {"launch": launch}, "train")


def test_the_bytes_are_those_that_the_blocks_save() -> None:
    """Counted in the saved tensors of a forward pass with full rows."""
    size = SIZES["tiny"]
    context, target = size.text.context_length, size.captioner.queries if size.captioner else 0
    config = from_mapping(TrainConfig, {"captions": {"context_length": context, "target_length": target}}, "train")
    model = ClipsModel(size)
    generator = torch.Generator().manual_seed(0)
    image_size = size.vision.image_size
    inputs = [torch.randn(2, 3, image_size, image_size, generator=generator)]
    inputs += [torch.randint(3, 100, (2, length), generator=generator) for length in (context, context, target)]

    def saved(keeps: bool) -> int:
        seen: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        keep_hidden_layers(model, keeps)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            output = model(*inputs)
        assert output.caption_hidden_ND.requires_grad
        return sum(seen.values())

    measured = (saved(True) - saved(False)) / 2
    assert 0.95 * hidden_bytes(config, size) < measured <= hidden_bytes(config, size)


def test_losses_and_gradients_are_the_same_to_the_bit() -> None:
    torch.manual_seed(0)
    model = ClipsModel(SIZES["tiny"])
    generator = torch.Generator().manual_seed(1)
    context = SIZES["tiny"].text.context_length
    inputs = [
        torch.randn(6, 3, 64, 64, generator=generator),
        *(naive.rows(generator, 6, length, 8, cls=None) for length in (context, context, 20)),
    ]
    found = []
    for keeps in (False, True):
        keep_hidden_layers(model, keeps)
        model.zero_grad()
        parts = clips_loss(model(*inputs), model.captioner.head.weight)
        parts.total.backward()
        found.append([parts.total.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("launch", "ranks", "on_gpu", "kept"),
    [
        ({}, 1, False, True),
        ({}, 2, False, False),  # together more than a quarter
        ({}, 1, True, False),
        ({"recompute": "none"}, 2, False, True),
        ({"recompute": "block"}, 2, False, True),
        ({"chunk_size": 8}, 2, False, True),
    ],
)
def test_they_are_kept_where_memory_allows(
    monkeypatch: pytest.MonkeyPatch, launch: dict[str, Any], ranks: int, on_gpu: bool, kept: bool
) -> None:
    config, size = config_of(**launch), SIZES["tiny"]
    monkeypatch.setattr(hidden_layers, "free_memory", lambda: 4 * 64 * hidden_bytes(config, size))
    assert keeps_hidden_layers(config, size, 64, ranks_here=ranks, on_gpu=on_gpu) == kept
