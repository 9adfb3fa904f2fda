"""The estimate before a start: measured steps, and what follows from them."""

import pytest
from rich.console import Console

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.models.flops import forward_flops_by_part, training_flops
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.estimate import estimate, of_measured, table
from clips_pipeline.training.resolve import model_config

SMALL = {
    "samples": 640,
    "batch_size": 64,
    "optimizer": {"warmup_samples": 0},
    "launch": {"device": "cpu", "threads": 1},
}
FOUND = {
    "parameters": {"vision": 1000, "text": 500},
    "trained_parameters": 500,
    "forward_flops": {"vision tower": 7, "text tower": 3},
    "device": "cpu",
    "samples": [2, 8],
    "seconds": [1.0, 2.0],
    "peak_bytes": [100_000, 160_000],
}


def test_what_follows_from_a_measurement() -> None:
    config = from_mapping(TrainConfig, {**SMALL, "launch": {"processes": 2}}, "train")
    found = of_measured(config, FOUND)
    assert found.training_flops == 30
    assert found.state_bytes == 4 * (1500 + 3 * 500)
    # 10,000 bytes for each sample beyond those that were measured; a rank has 32.
    assert found.peak_bytes == 160_000 + 24 * 10_000
    assert found.seconds == 0.25 * 640 / 2
    chunked = of_measured(from_mapping(TrainConfig, {**SMALL, "launch": {"chunk_size": 8}}, "train"), FOUND)
    assert chunked.peak_bytes == 160_000
    assert chunked.sample_seconds == pytest.approx(0.25 * 4 / 3)


def test_a_real_measurement_counts_what_the_model_has() -> None:
    config = from_mapping(TrainConfig, {**SMALL, "method": "mixture"}, "train")
    found = estimate(config, 300)
    assert set(found.parameters) == {"vision", "text", "temperature"}
    built = model_config(config, 300)
    assert found.forward_flops == forward_flops_by_part(built, 80, 0, 127)
    assert found.training_flops == training_flops(built, 80, 0, 127)
    assert found.sample_seconds > 0
    assert found.peak_bytes > found.state_bytes
    console = Console(width=120, record=True)
    console.print(table(found, config))
    shown = console.export_text()
    assert f"{sum(found.parameters.values()):,}" in shown
    assert "nothing is trained" in shown


def test_a_probe_that_fails_says_why() -> None:
    config = from_mapping(TrainConfig, SMALL, "train")
    with pytest.raises(ConfigError, match=r"dry_run: the measured steps failed: .*table of"):
        estimate(config, 10**6)
