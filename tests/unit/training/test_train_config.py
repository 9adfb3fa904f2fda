"""Validation of the configuration of a training, and fingerprints."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.training.config import LaunchConfig, TrainConfig
from clips_pipeline.training.resolve import image_config, model_config
from clips_pipeline.training.run_spec import RunSpec, load_spec


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"batch_size": 1}, "train.batch_size: 1 must be at least 2"),
        ({"samples": 10, "batch_size": 20}, "must be at least one batch_size"),
        ({"batch_size": 9, "launch": {"processes": 2}}, "divisible by launch.processes"),
        ({"loss": {"caption_weight": -1.0}}, "train.loss.caption_weight: -1.0 must be at least 0"),
        ({"loss": {"caption_weight": 0.0, "contrastive_weight": 0.0}}, "must be above 0"),
        ({"optimizer": {"warmup_samples": 10**9}}, "must not exceed samples"),
        ({"captions": {"fragment": {"strategy": "sub-caption"}}}, "train.captions.fragment.strategy"),
        ({"launch": {"device": "cpu", "precision": "amp_bf16"}}, "needs a GPU"),
        ({"optimizers": {}}, "did you mean 'optimizer'?"),
    ],
)
def test_impossible_trainings(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="train") as caught:
        from_mapping(TrainConfig, mapping, "train")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("model", "vocabulary", "message"),
    [
        ({"size": "xxl"}, 100, "sizes are"),
        ({"size": "tiny", "image_size": 63}, 100, "63"),
        ({"size": "tiny"}, 10**6, "or lower prepare.tokenizer.vocabulary_size"),
    ],
)
def test_impossible_models(model: dict[str, Any], vocabulary: int, message: str) -> None:
    config = from_mapping(TrainConfig, {"model": model}, "train")
    with pytest.raises(ConfigError) as caught:
        model_config(config, vocabulary)
    assert message in str(caught.value)


def test_images_have_the_models_resolution() -> None:
    config = from_mapping(TrainConfig, {"model": {"image_size": 96}}, "train")
    assert image_config(config).size == model_config(config, 100).vision.image_size == 96


def spec(train: TrainConfig, data: str = "d") -> RunSpec:
    return RunSpec(train, shards="/s", tokenizer="/t", run_folder="/r", model_folder="/m", data_version=data)


def test_fingerprint_changes_with_what_is_trained_and_only_then() -> None:
    base = spec(TrainConfig())
    other_machine = spec(TrainConfig(launch=LaunchConfig(processes=2, loader_workers=0)))
    assert base.fingerprint == dataclasses.replace(other_machine, run_folder="/elsewhere").fingerprint
    assert base.fingerprint != spec(TrainConfig(seed=1)).fingerprint
    assert base.fingerprint != spec(TrainConfig(), data="e").fingerprint


def test_a_spec_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It had `if_changed: begin_anew`, which is `on_change: restart` now."""
    present = spec(TrainConfig(launch=LaunchConfig(on_change="restart")))
    path = tmp_path / "run_spec.json"
    path.write_text(present.text.replace('"on_change": "restart"', '"if_changed": "begin_anew"'))
    assert '"if_changed": "begin_anew"' in path.read_text()
    assert load_spec(path) == present
    with pytest.raises(ConfigError, match=r"train\.launch\.if_changed: this key was renamed; write 'on_change'"):
        from_mapping(TrainConfig, {"launch": {"if_changed": "refuse"}}, "train")


def test_spec_round_trip_and_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "run_spec.json"
    spec(TrainConfig(seed=3)).save(path)
    assert load_spec(path) == spec(TrainConfig(seed=3))
    path.write_text(path.read_text().replace('"shards"', '"shard"'))
    with pytest.raises(ConfigError, match=r"run_spec\.json\.shard: unknown key"):
        load_spec(path)
