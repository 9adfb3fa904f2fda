"""`train.launch.loader_workers: auto`."""

import os

import pytest

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.shards.index import ShardEntry
from clips_pipeline.training.config import LaunchConfig
from clips_pipeline.training.machine.loader_workers import choose_workers, resolve_workers

PHOTOS, SMALL = ([ShardEntry(f"{size}.tar", 10, 10 * size, "0" * 64, "0" * 64)] for size in (80_000, 5_700))


@pytest.mark.parametrize(
    ("cores", "sample_bytes", "on_gpu", "workers"),
    [
        (8, 5_700, False, 0),
        (1, 80_000, False, 0),
        (1.5, 80_000, False, 0),
        (2, 80_000, False, 1),
        (64, 80_000, False, 1),
        (1, 80_000, True, 1),
        (8, 80_000, True, 7),
        (3 * (8 / 3), 80_000, True, 7),
        (64, 80_000, True, 14),
        (8, 5_700, True, 2),
        (8, 16_384, True, 2),
        (8, 16_385, True, 7),
    ],
)
def test_the_number_follows_from_cores_images_and_device(
    cores: float, sample_bytes: float, on_gpu: bool, workers: int
) -> None:
    assert choose_workers(cores, sample_bytes, on_gpu=on_gpu) == workers


def test_a_given_number_is_kept_and_auto_is_resolved() -> None:
    assert resolve_workers(5, PHOTOS, on_gpu=True) == 5
    expected = choose_workers(len(os.sched_getaffinity(0)), 80_000, on_gpu=True)
    assert resolve_workers("auto", PHOTOS, on_gpu=True) == expected
    assert resolve_workers("auto", SMALL, on_gpu=False) == 0


@pytest.mark.parametrize("value", ["many", "3", -1, 1025, 1.5, True, None])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"launch\.loader_workers: .*auto"):
        from_mapping(LaunchConfig, {"loader_workers": value}, "train.launch")


def test_auto_is_kept_in_the_configuration() -> None:
    assert from_mapping(LaunchConfig, {"loader_workers": "auto"}, "train.launch").loader_workers == "auto"
    assert from_mapping(LaunchConfig, {"loader_workers": 3}, "train.launch").loader_workers == 3
