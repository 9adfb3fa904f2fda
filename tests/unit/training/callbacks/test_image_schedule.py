"""Progressive resolution and patch dropout: functions of the step, equal for any number of ranks."""

import dataclasses

import pytest
import torch

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import SIZES
from clips_pipeline.training.callbacks.image_schedule import ImageSchedule
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.resolve import model_config


def schedule(rank: int = 0, **changes: object) -> ImageSchedule:
    config = from_mapping(
        TrainConfig, {"samples": 800, "batch_size": 8, "optimizer": {"warmup_samples": 0}, **changes}, "t"
    )
    return ImageSchedule(config, 64, 16, rank)


def test_off_by_default() -> None:
    off, images = schedule(), torch.rand(2, 3, 64, 64)
    assert off.resize(images, 0) is images
    assert off.kept_patches(2, 0) is None


def test_resolution_grows_in_whole_patches_to_the_models_own() -> None:
    growing = schedule(progressive={"first_size": 32, "until": 0.6})
    sizes = [growing.size_at(step) for step in range(100)]
    assert sizes == [32] * 20 + [48] * 20 + [64] * 60
    assert growing.resize(torch.rand(2, 3, 64, 64), 25).shape == (2, 3, 48, 48)


def test_ranks_drop_the_patches_that_one_process_drops() -> None:
    whole = schedule(model={"patch_dropout": 0.5}).kept_patches(8, 3)
    assert whole.shape == (8, 8)
    halves = [schedule(rank, model={"patch_dropout": 0.5}).kept_patches(4, 3) for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), whole)
    assert (whole.diff(dim=1) > 0).all()
    assert not torch.equal(schedule(model={"patch_dropout": 0.5}).kept_patches(8, 4), whole)
    assert not torch.equal(schedule(model={"patch_dropout": 0.5}, seed=1).kept_patches(8, 3), whole)


def test_every_patch_is_dropped_as_often_as_any_other() -> None:
    dropping = schedule(model={"patch_dropout": 0.25})
    counts = torch.zeros(16)
    for step in range(250):
        counts += torch.bincount(dropping.kept_patches(8, step).flatten(), minlength=16)
    # 2,000 draws with probability 0.75: five standard deviations.
    assert ((counts / 2_000 - 0.75).abs() < 0.05).all()


def test_the_tower_sees_the_kept_patches_at_their_own_positions() -> None:
    torch.manual_seed(0)
    tower = ClipsModel(SIZES["tiny"]).vision.double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    kept = torch.tensor([[0, 1, 3], [0, 2, 3]])
    tokens = tower.embed(images)
    rows = [torch.cat([tokens[i, :1], tokens[i, 1:][kept[i]]]) for i in range(2)]
    x = torch.stack(rows)
    for block in tower.blocks:
        x = block(x)
    expected = tower.head(tower.norm(x[:, 1:].mean(dim=1)))
    assert torch.allclose(tower(images, kept).feature_BE, expected, atol=1e-12)
    everything = torch.arange(4).expand(2, -1)
    assert torch.equal(tower(images, everything).feature_BE, tower(images).feature_BE)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"method": "clap"}, "train.method: 'clap' is not one of 'clip', 'mixture', 'coca', 'clips'"),
        ({"freeze": ["vision", "text", "captioner"]}, "every part is frozen"),
        ({"method": "clip", "freeze": ["vision", "text"]}, "every part is frozen"),
        ({"method": "clip", "freeze": ["captioner"]}, "method 'clip' has no captioner"),
        ({"freeze": ["towers"]}, "train.freeze[0]: 'towers' is not one of"),
        ({"freeze": ["vision"], "launch": {"sharding": "fsdp2"}}, "cannot be combined"),
        ({"model": {"patch_dropout": 1.0}}, "train.model.patch_dropout: 1.0 must be below 1"),
        ({"model": {"patch_dropout": 0.5}, "launch": {"chunk_size": 2}}, "cannot be combined"),
        ({"progressive": {"until": 0.0}}, "train.progressive.until: 0.0 must be above 0"),
        ({"method": "mixture", "loss": {"contrastive_weight": 0.0}}, "method 'mixture' has no other loss"),
    ],
)
def test_invalid_options_are_refused(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(TrainConfig, mapping, "train")
    assert message in str(caught.value)


def test_methods_decide_the_captioner() -> None:
    found = {
        method: model_config(dataclasses.replace(TrainConfig(), method=method), 100).captioner
        for method in ("clip", "mixture", "coca", "clips")
    }
    assert found["clip"] is None
    assert found["mixture"] is None
    assert (found["coca"].inputs, found["clips"].inputs) == ("tokens", "queries")
