"""Estimate of a training: measured steps, and the figures computed from them."""

import pytest
from rich.console import Console

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.models.flops import forward_flops_by_part, training_flops
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.estimate import estimate, estimate_table, from_measurement, modeled_hours
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
    "kept_sample_bytes": 100,
    "block_parameters": {"all": 1200, "largest": 300},
    "forward_flops": {"vision tower": 7, "text tower": 3},
    "device": "cpu",
    "threads": 2,
    "real_rows": False,
    "samples": [2, 8],
    "seconds": [[1.0, 1.2], [2.0, 4.0]],
    "cpu_seconds": [[1.6, 1.6], [3.2, 3.2]],
    "peak_bytes": [100_000, 160_000],
}


COPY = 4 * (1500 + 2 * 500)
"""Bytes of the copy that is written as a checkpoint: weights, and two moments of those that are trained."""


def config_of(**changes: object) -> TrainConfig:
    return from_mapping(TrainConfig, {**SMALL, **changes}, "train")


def test_figures_from_a_measurement() -> None:
    found = from_measurement(config_of(launch={"processes": 2}), FOUND)
    assert found.training_flops == 30
    assert found.state_bytes == 4 * (1500 + 3 * 500)
    # 10,000 bytes for each sample beyond the measured ones; a rank has 32. DDP has a second copy of the gradients.
    assert found.peak_bytes == 160_000 + 24 * 10_000 + COPY + 4 * 500
    # At best the processor time of one more sample on two threads, at worst the slowest step of the larger batch.
    best, worst = (1.6 - 0.8) / 6, 4.0 / 8
    assert found.sample_seconds == pytest.approx((best, worst))
    assert found.seconds == pytest.approx((best * 640 / 2, worst * 640 / 2))
    assert "extrapolated to the 32 of a rank" in found.basis
    assert "full rows" in found.basis


def test_a_batch_that_was_measured_is_not_extrapolated() -> None:
    chunked = from_measurement(config_of(launch={"chunk_size": 8}), FOUND)
    # A step keeps 100 bytes of each sample of the other chunks.
    assert chunked.peak_bytes == 160_000 + COPY + 56 * 100
    # Seven of the eight chunks run twice, at a third of a step's operations each.
    factor = 1 + 7 / 8 / 3
    assert chunked.sample_seconds == pytest.approx((0.2 * factor, 0.5 * factor))
    whole = from_measurement(config_of(batch_size=8, launch={"chunk_size": 100}), FOUND)
    assert whole.sample_seconds == pytest.approx((0.2, 0.5))
    # Blocks that are computed again were so in the measurement.
    blocks = from_measurement(config_of(batch_size=8, launch={"recompute": "block"}), FOUND)
    assert blocks.sample_seconds == pytest.approx((0.2, 0.5))
    assert "the last is the batch of a rank" in chunked.basis


def test_the_copy_for_a_checkpoint_counts_where_there_is_one() -> None:
    bytes_of = {
        name: from_measurement(config_of(**changes), {**FOUND, "device": device}).peak_bytes
        for name, device, changes in (
            ("none", "cpu", {"launch": {"background_checkpoints": False}}),
            ("copy", "cpu", {}),
            ("gpu", "cuda", {}),
        )
    }
    assert bytes_of["copy"] == bytes_of["none"] + COPY
    assert bytes_of["gpu"] == bytes_of["none"]
    average = [
        from_measurement(config_of(ema={}, launch={"background_checkpoints": background}), FOUND).peak_bytes
        for background in (False, True)
    ]
    assert average[1] - average[0] == COPY + 4 * 1500


def test_sharded_state_needs_less_memory() -> None:
    plain = from_measurement(config_of(launch={"processes": 4}), FOUND)
    shared = from_measurement(config_of(launch={"processes": 4, "sharding": "fsdp2"}), FOUND)
    # Gathered are the largest block and all parameters outside blocks, 300 + 300, with their gradients.
    assert shared.state_bytes == plain.state_bytes // 4 + 2 * 4 * 600
    # DDP's second copy of the gradients is not needed either.
    assert plain.peak_bytes - shared.peak_bytes == plain.state_bytes - shared.state_bytes + 4 * 500
    chunked = from_measurement(config_of(launch={"processes": 4, "sharding": "fsdp2", "chunk_size": 8}), FOUND)
    assert chunked.state_bytes == plain.state_bytes // 4 + 2 * 4 * 1500


def test_a_busy_machine_is_reported() -> None:
    quiet, busy = (from_measurement(config_of(), FOUND, load) for load in (0.0, 1_000.0))
    assert quiet.warning is None
    assert "a load of 1000.0 on" in busy.warning
    console = Console(width=120, record=True)
    console.print(estimate_table(busy, config_of()))
    assert "Warning: this machine was busy" in " ".join(console.export_text().split())


def test_hours_on_a_card_come_from_its_peak() -> None:
    config = config_of(launch={"processes": 2, "precision": "amp_bf16", "device": "gpu"})
    found = from_measurement(config, {**FOUND, "forward_flops": {"vision tower": 10**18}})
    hours = {card: (low, high) for card, low, high in modeled_hours(found, config)}
    # 3e18 FLOPs for each of 640 samples on two cards with 312e12 FLOP/s each.
    assert hours["A100"] == pytest.approx(
        (3e18 * 640 / (2 * 0.4 * 312e12) / 3600, 3e18 * 640 / (2 * 0.2 * 312e12) / 3600)
    )
    chunked = config_of(launch={"processes": 2, "precision": "amp_bf16", "device": "gpu", "chunk_size": 8})
    assert modeled_hours(found, chunked)[0][1] == pytest.approx(hours["A100"][0] * (1 + 3 / 4 / 3))
    blocks = config_of(launch={"processes": 2, "precision": "amp_bf16", "device": "gpu", "recompute": "block"})
    assert modeled_hours(found, blocks)[0][1] == pytest.approx(hours["A100"][0] * 4 / 3)
    console = Console(width=120, record=True)
    console.print(estimate_table(found, config))
    assert "hours on 2 H100, modeled, not measured" in console.export_text()
    console.print(estimate_table(found, config_of()))
    assert "H100" not in console.export_text()


def test_a_real_measurement_counts_what_the_model_has() -> None:
    config = config_of(method="mixture", batch_size=16)
    rows = [([1, 5, 6, 2, *[0] * 76], [], [])] * 3
    found = estimate(config, 300, rows)
    assert set(found.parameters) == {"vision", "text", "logit scale"}
    built = model_config(config, 300)
    assert found.forward_flops == forward_flops_by_part(built, 80, 0, 127)
    assert found.training_flops == training_flops(built, 80, 0, 127)
    assert 0 < found.sample_seconds[0] <= found.sample_seconds[1]
    assert found.measured == [2, 8, 16]
    assert "rows of the training data" in found.basis
    assert found.peak_bytes > found.state_bytes
    console = Console(width=120, record=True)
    console.print(estimate_table(found, config))
    shown = console.export_text()
    assert f"{sum(found.parameters.values()):,}" in shown
    assert "nothing is trained" in shown
    assert "(the last is the batch of a rank)" in " ".join(shown.split())


def test_a_failed_measurement_is_explained() -> None:
    config = from_mapping(TrainConfig, SMALL, "train")
    with pytest.raises(ConfigError, match=r"dry_run: the measured steps failed: .*embedding table has"):
        estimate(config, 10**6)
