"""Color changes of a batch, compared with those of one image at a time."""

from random import Random

import numpy as np
import pytest
import torch

from clips_pipeline.data.images import color_batch
from clips_pipeline.data.images.color import ColorChanges, apply_changes, draw_changes

SEEDS = range(60)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Random colors, with grays, primaries, and all ways in which two channels can be equal."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(SEEDS), 3, 24, 32), np.uint8)
    pixels[:, :, 0] = pixels[:, :1, 0]
    for row, (one, other) in enumerate([(0, 1), (1, 2), (2, 0)], start=1):
        pixels[:, one, row] = pixels[:, other, row]
    corners = np.array([(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)], np.uint8)
    pixels[:, :, 4, :8] = corners.T
    return torch.from_numpy(pixels)


def drawn(strength: float = 0.4) -> list[ColorChanges]:
    found = []
    for seed in SEEDS:
        draws = Random(seed)  # noqa: S311 - no secret depends on it
        found.append(draw_changes(strength=strength, jitter=0.8, grayscale=0.2, draws=draws))
    return found


def one_by_one(images: torch.Tensor, changes: list[ColorChanges]) -> torch.Tensor:
    pairs = zip(images.numpy(), changes, strict=True)
    return torch.from_numpy(np.stack([apply_changes(pixels, change) for pixels, change in pairs]))


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_a_batch_equals_its_images_within_rounding(images: torch.Tensor, strength: float) -> None:
    changes = drawn(strength)
    kinds = {(bool(change.adjustments), change.gray) for change in changes}
    assert len(kinds) == 4, "the draws leave out a case"
    found = color_batch.change_colors(images, torch.tensor([change.to_row() for change in changes]))
    expected = one_by_one(images, changes)
    assert found.dtype == torch.uint8
    assert (found.int() - expected.int()).abs().max() <= 1
    assert (found != expected).float().mean() < 1e-3


def test_images_without_changes_stay_as_they_are(images: torch.Tensor) -> None:
    rows = torch.tensor([ColorChanges((), gray=False).to_row()] * len(images))
    assert torch.equal(color_batch.change_colors(images, rows), images)


def test_large_batches_are_changed_in_parts(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.tensor([change.to_row() for change in drawn()])
    whole = color_batch.change_colors(images, rows)
    monkeypatch.setattr(color_batch, "MAX_VALUES", 7 * images[0].numel())
    assert torch.equal(color_batch.change_colors(images, rows), whole)


def test_the_host_waits_for_no_value(images: torch.Tensor) -> None:
    # The meta device has no data: whatever needs a value raises.
    found = color_batch.change_colors(images.to("meta"), torch.empty(len(images), 9, device="meta"))
    assert found.shape == images.shape
