"""What a training will cost, before it starts: parameters, FLOPs, memory, time. Loads no torch; `training.probe` measures."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from clips_pipeline.config import ConfigError, to_mapping
from clips_pipeline.training.config import TrainConfig

GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """Figures of one training.

    Attributes:
        parameters: by part.
        forward_flops: of one sample, by part, at full rows.
        training_flops: of one sample, forward and backward, nothing frozen.
        state_bytes: parameters, gradients, AdamW's two moments and a moving average, in float32, on one rank.
        peak_bytes: expected peak of one rank; extrapolated from the measured batches.
        sample_seconds: measured, of one sample on one rank.
        seconds: of the whole run on all ranks, if they do not slow each other down.
        device: on which this was measured.
        measured: samples of the measured batches.
    """

    parameters: dict[str, int]
    forward_flops: dict[str, int]
    training_flops: int
    state_bytes: int
    peak_bytes: float
    sample_seconds: float
    seconds: float
    device: str
    measured: list[int]


def estimate(config: TrainConfig, vocab_size: int) -> Estimate:
    """Measure a few steps in another process, and work out the rest.

    Raises:
        ConfigError: the probe failed; the message has its last line.
    """
    asked = json.dumps({"train": to_mapping(config), "vocab_size": vocab_size})
    command = [sys.executable, "-m", "clips_pipeline.training.probe"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, env={**os.environ})  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise ConfigError(
            f"dry_run: the measured steps failed: {last}; lower train.launch.chunk_size or train.batch_size"
        )
    return of_measured(config, json.loads(done.stdout))


def of_measured(config: TrainConfig, found: Mapping[str, Any]) -> Estimate:
    """The figures that follow from a measurement of `training.probe`."""
    samples, seconds, peaks = found["samples"], found["seconds"], found["peak_bytes"]
    each, slope = seconds[-1] / samples[-1], 0.0
    if len(samples) == 2:
        slope = max(0.0, (peaks[1] - peaks[0]) / (samples[1] - samples[0]))
    total = sum(found["parameters"].values())
    copies = total + 3 * found["trained_parameters"] + (total if config.ema else 0)
    at_once = config.launch.chunk_size or config.batch_size // config.launch.processes
    # A chunk's forward pass is done twice.
    again = 4 / 3 if config.launch.chunk_size else 1.0
    return Estimate(
        parameters=dict(found["parameters"]),
        forward_flops=dict(found["forward_flops"]),
        training_flops=3 * sum(found["forward_flops"].values()),
        state_bytes=4 * copies,
        peak_bytes=peaks[-1] + slope * (at_once - samples[-1]) + (4 * total if config.ema else 0),
        sample_seconds=each * again,
        seconds=each * again * config.steps * config.batch_size / config.launch.processes,
        device=found["device"],
        measured=list(samples),
    )


def table(found: Estimate, config: TrainConfig) -> Table:
    """For people."""
    shown = Table("", "value", title="dry run: nothing is trained", title_justify="left")
    for name, count in found.parameters.items():
        shown.add_row(f"parameters, {name}", f"{count:,}")
    shown.add_row("parameters", f"{sum(found.parameters.values()):,}", end_section=True)
    for name, flops in found.forward_flops.items():
        shown.add_row(f"forward GFLOP per sample, {name}", f"{flops / 1e9:.3f}")
    shown.add_row("training GFLOP per sample, at most", f"{found.training_flops / 1e9:.3f}")
    whole = found.training_flops * config.steps * config.batch_size
    shown.add_row("training EFLOP, at most", f"{whole / 1e18:.4g}", end_section=True)
    shown.add_row("GiB of parameters, gradients and optimiser, each rank", f"{found.state_bytes / GIB:.2f}")
    shown.add_row("GiB expected at most, each rank", f"{found.peak_bytes / GIB:.2f}", end_section=True)
    shown.add_row(f"seconds per sample on {found.device}, full rows", f"{found.sample_seconds:.4g}")
    shown.add_row(f"hours for {config.steps:,} steps of {config.batch_size}", f"{found.seconds / 3600:.4g}")
    shown.caption = (
        f"Measured with batches of {' and '.join(map(str, found.measured))} samples whose rows are full; loading, evaluation and "
        "communication are not in it."
    )
    return shown
