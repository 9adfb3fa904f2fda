"""Estimate of a training before it starts: parameters, FLOPs, memory, time.

Does not import torch: `training.step_timer` measures in another process.
"""

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
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12}
"""Dense bfloat16 FLOPs per second of one card, from NVIDIA's data sheets (SXM)."""
UTILIZATION = (0.2, 0.4)
"""Fractions of the peak between which trainings usually run; none was measured here (docs/explanation/performance.md)."""
BUSY_LOAD = 0.5
"""Load per core above which measured times are unreliable."""


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of one training.

    Attributes:
        parameters: number of parameters by part.
        forward_flops: FLOPs of the forward pass of one sample, by part, with full rows.
        training_flops: FLOPs of one sample, forward and backward, nothing frozen.
        state_bytes: bytes of parameters, gradients, the optimizer's state (AdamW: two moments) and a moving average, in float32,
            on one rank.
        peak_bytes: expected peak memory of one rank; extrapolated if its batch was not measured. On a GPU without what
            CUDA itself takes.
        sample_seconds: measured seconds per sample on one rank, from the fastest step (in processor time) to the slowest.
        seconds: seconds of the whole run, if ranks do not slow each other down, with the fastest and with the slowest steps.
        device: where the steps were measured.
        measured: samples of the measured batches.
        basis: what was measured, as text.
        warning: why the times may be wrong, if they may.
    """

    parameters: dict[str, int]
    forward_flops: dict[str, int]
    training_flops: int
    state_bytes: int
    peak_bytes: float
    sample_seconds: tuple[float, float]
    seconds: tuple[float, float]
    device: str
    measured: list[int]
    basis: str
    warning: str | None = None


def estimate(config: TrainConfig, vocab_size: int, rows: list[tuple[list[int], ...]] | None = None) -> Estimate:
    """Measure a few steps in another process and compute the estimate from them.

    Args:
        config: the training.
        vocab_size: number of ids of its tokenizer.
        rows: ids of training samples, as the model reads them; None measures with full rows.

    Raises:
        ConfigError: the measurement failed; the message has the last line of its output.
    """
    request = json.dumps({"train": to_mapping(config), "vocab_size": vocab_size, "rows": rows})
    command = [sys.executable, "-m", "clips_pipeline.training.step_timer"]
    load = os.getloadavg()[0]
    process = subprocess.run(command, input=request, capture_output=True, text=True, env={**os.environ})  # noqa: S603
    if process.returncode:
        last = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise ConfigError(
            f"dry_run: the measured steps failed: {last}; lower train.launch.chunk_size or train.batch_size"
        )
    return from_measurement(config, json.loads(process.stdout), load)


def from_measurement(config: TrainConfig, measurement: Mapping[str, Any], load: float = 0.0) -> Estimate:
    """Compute the estimate from a measurement.

    Args:
        config: the training.
        measurement: the result of `step_timer.measure`.
        load: load average of the machine before the measurement.
    """
    samples = measurement["samples"]
    at_once = samples_at_once(config)
    # Blocks ran twice in the measurement too.
    recompute_factor = 1.0 if config.launch.recomputation == "block" else _recompute_factor(config)
    fastest, slowest = (recompute_factor * seconds for seconds in _sample_seconds(measurement, at_once))
    per_rank = config.steps * config.batch_size / config.launch.processes
    total = sum(measurement["parameters"].values())
    state_bytes, saved_bytes = _state_bytes(config, measurement, total)
    slope = 0.0
    if len(samples) > 1:
        slope = max(0.0, (measurement["peak_bytes"][-1] - measurement["peak_bytes"][-2]) / (samples[-1] - samples[-2]))
    peak = measurement["peak_bytes"][-1] + slope * (at_once - samples[-1]) - saved_bytes
    peak += _snapshot_bytes(config, measurement, total) + _unmeasured_bytes(config, measurement)
    return Estimate(
        parameters=dict(measurement["parameters"]),
        forward_flops=dict(measurement["forward_flops"]),
        training_flops=3 * sum(measurement["forward_flops"].values()),
        state_bytes=state_bytes,
        peak_bytes=max(peak, float(state_bytes)),
        sample_seconds=(fastest, slowest),
        seconds=(fastest * per_rank, slowest * per_rank),
        device=measurement["device"],
        measured=list(samples),
        basis=_basis(measurement, at_once),
        warning=_warning(load),
    )


def samples_at_once(config: TrainConfig) -> int:
    """Return the samples whose activations a rank holds: a chunk, or its whole batch."""
    of_rank = config.batch_size // config.launch.processes
    return min(config.launch.chunk_size or of_rank, of_rank)


def _recompute_factor(config: TrainConfig) -> float:
    """Return the operations of a step relative to one in which nothing runs twice; a backward pass counts as two forward ones.

    The last chunk of a batch is not run again.
    """
    policy, of_rank = config.launch.recomputation, config.batch_size // config.launch.processes
    if policy == "block":
        return 4 / 3
    chunk = config.launch.chunk_size
    if policy != "chunk" or chunk is None or chunk >= of_rank:
        return 1.0
    last = of_rank % chunk or chunk
    return 1 + (1 - last / of_rank) / 3


def _sample_seconds(measurement: Mapping[str, Any], at_once: int) -> tuple[float, float]:
    """Return the seconds per sample in a batch of `at_once`, at best and at worst."""
    samples, steps, cpu = measurement["samples"], measurement["seconds"], measurement["cpu_seconds"]
    # At best a step takes its processor time, spread over all threads.
    best = [min(times) for times in steps]
    if measurement["device"] == "cpu":
        best = [min(time, min(times) / measurement["threads"]) for time, times in zip(best, cpu, strict=True)]
    if samples[-1] == at_once or len(samples) == 1:
        return best[-1] / samples[-1], max(steps[-1]) / samples[-1]
    # At best the fixed cost of a step does not grow with the batch; at worst it does.
    marginal = max(0.0, best[-1] - best[-2]) / (samples[-1] - samples[-2])
    return min(marginal, best[-1] / samples[-1]), max(steps[-1]) / samples[-1]


def _state_bytes(config: TrainConfig, measurement: Mapping[str, Any], total: int) -> tuple[int, float]:
    """Return the bytes of parameters, gradients and optimizer state on one rank, and by how much the measurement had more.

    Under FSDP2 each rank has its shard. Parameters that are gathered at a time, with their gradients: the block that runs (in
    chunks: all blocks) and everything outside the blocks.
    """
    # Gradients, and what the optimizer keeps (AdamW: two moments).
    kept = measurement.get("optimizer_numbers", 2 * measurement["trained_parameters"])
    trained = measurement["trained_parameters"] + kept
    average = total if config.ema else 0
    whole = 4 * (total + trained + average)
    measured = 4 * (total + trained)
    if config.launch.sharding == "none":
        return whole, measured - whole
    blocks = measurement["block_parameters"]
    uses_chunks = (config.launch.chunk_size or config.batch_size) < config.batch_size // config.launch.processes
    gathered = total if uses_chunks else total - blocks["all"] + blocks["largest"]
    on_rank = whole // config.launch.processes + 2 * 4 * gathered
    return on_rank, measured - on_rank


def _snapshot_bytes(config: TrainConfig, measurement: Mapping[str, Any], total: int) -> int:
    """Return the bytes of the copy that rank 0 holds while a checkpoint is written, in the memory that is estimated: of a CPU."""
    if measurement["device"] != "cpu" or not config.launch.background_checkpoints:
        return 0
    kept = measurement.get("optimizer_numbers", 2 * measurement["trained_parameters"])
    return 4 * (total + int(kept) + (total if config.ema else 0))


def _unmeasured_bytes(config: TrainConfig, measurement: Mapping[str, Any]) -> int:
    """Return the bytes of what one process with one chunk does not hold: DDP's copy of the gradients, and the batch of a rank."""
    several = config.launch.processes > 1 and config.launch.sharding == "none"
    others = config.batch_size // config.launch.processes - samples_at_once(config)
    return 4 * int(measurement["trained_parameters"]) * several + others * int(measurement["kept_sample_bytes"])


def _basis(measurement: Mapping[str, Any], at_once: int) -> str:
    rows = "rows of the training data" if measurement["real_rows"] else "full rows, the longest possible"
    sizes = " and ".join(map(str, measurement["samples"]))
    steps = len(measurement["seconds"][-1])
    real = measurement["samples"][-1] == at_once
    how = (
        "the last is the batch of a rank"
        if real
        else f"extrapolated to the {at_once} of a rank, which were not measured"
    )
    return f"{steps} steps each of {sizes} samples ({how}) on {measurement['threads']} threads, with {rows}"


def _warning(load: float) -> str | None:
    cores = os.cpu_count() or 1
    if load <= BUSY_LOAD * cores:
        return None
    return (
        f"this machine was busy: a load of {load:.1f} on {cores} cores; the true times may be shorter. "
        "Measure again when it is idle"
    )


def estimate_table(cost: Estimate, config: TrainConfig) -> Table:
    """Return the estimate as a table for the terminal."""
    table = Table("", "value", title="dry run: nothing is trained", title_justify="left")
    for name, count in cost.parameters.items():
        table.add_row(f"parameters, {name}", f"{count:,}")
    table.add_row("parameters", f"{sum(cost.parameters.values()):,}", end_section=True)
    for name, flops in cost.forward_flops.items():
        table.add_row(f"forward GFLOP per sample, {name}", f"{flops / 1e9:.3f}")
    table.add_row("training GFLOP per sample, at most", f"{cost.training_flops / 1e9:.3f}")
    whole = cost.training_flops * config.steps * config.batch_size
    table.add_row("training EFLOP, at most", f"{whole / 1e18:.4g}", end_section=True)
    table.add_row("GiB of parameters, gradients and optimizer state, each rank", f"{cost.state_bytes / GIB:.2f}")
    table.add_row("GiB expected at most, each rank", f"{cost.peak_bytes / GIB:.2f}", end_section=True)
    table.add_row(f"seconds per sample on {cost.device}", _range(cost.sample_seconds))
    hours = cost.seconds[0] / 3600, cost.seconds[1] / 3600
    table.add_row(f"hours for {config.steps:,} steps of {config.batch_size}", _range(hours))
    if config.launch.precision == "amp_bf16" and cost.device == "cpu":
        for card, low, high in modeled_hours(cost, config):
            cards = config.launch.processes
            table.add_row(f"hours on {cards} {card}, modeled, not measured", _range((low, high)))
    table.caption = f"Measured: {cost.basis}. Loading, evaluation and communication are not included."
    if cost.warning is not None:
        table.caption += f"\nWarning: {cost.warning}."
    return table


def modeled_hours(cost: Estimate, config: TrainConfig) -> list[tuple[str, float, float]]:
    """Return hours of the training by card, if every rank has one and reaches a usual fraction of its peak.

    Loading, evaluation and communication are not included; the second forward pass of chunks is.

    Returns:
        name of the card, hours at the higher and at the lower fraction.
    """
    whole = cost.training_flops * config.steps * config.batch_size * _recompute_factor(config)
    return [
        (card, *sorted(whole / (peak * fraction * config.launch.processes) / 3600 for fraction in UTILIZATION))  # type: ignore[misc]
        for card, peak in PEAK_FLOPS.items()
    ]


def _range(values: tuple[float, float]) -> str:
    low, high = (f"{value:.2g}" for value in values)
    return low if low == high else f"{low} to {high}"
