"""Model of the step time on many GPUs.

A step of N GPUs with a global batch of G is

    compute + feature gather + its backward + gradients that the backward pass does not hide + host + checkpoint

- compute: the given step of G / N samples on one GPU; between two given batches linear, beyond them proportional, and never below
  a floor, the time in which a CPU launches the kernels of a step;
- features: one all-gather of image, web caption and fragment of every sample, and in the backward pass a reduce-scatter of their
  gradients, which are as large (`losses/gather.py`); nothing runs meanwhile;
- gradients: one all-reduce of all trained parameters, in DDP's buckets of 25 MiB while the backward pass of the last
  chunk runs; the last bucket cannot be hidden;
- host and checkpoint: a constant for each step; the seconds for which a step waits for a checkpoint, spread over its interval.

A collective takes the bytes that a rank sends, over the bandwidth of its slowest link, plus a latency for each hop. NCCL builds as
many rings as a machine has network cards, so the network bandwidth is that of a machine, not of one card. Bandwidths are those
that nccl-tests calls bus bandwidth, not of data sheets.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS_A_DAY = 86_400
BYTES = {"fp32": 4, "bf16": 2}
"""Bytes of a number that is sent, by `train.launch.communication`."""
BUCKET_BYTES = 25 * 2**20
"""Size of DDP's buckets (`bucket_cap_mb`)."""
STATE_BYTES = 12
"""Bytes of a checkpoint for each parameter: float32 weight and the two moments of AdamW."""
BACKWARD = 2 / 3
"""Fraction of a step that is the backward pass: it has twice the products of the forward pass."""


@dataclass(frozen=True)
class Network:
    """The links between GPUs. One machine uses the inner ones only.

    Attributes:
        per_machine: GPUs of a machine.
        inside: bus bandwidth within a machine, bytes per second.
        between: bus bandwidth between machines, bytes per second, of all network cards of a machine together.
        latency_s: seconds of one hop.
    """

    per_machine: int
    inside: float
    between: float
    latency_s: float

    def bandwidth(self, gpus: int) -> float:
        """Return the bandwidth of the slowest link."""
        return self.inside if gpus <= self.per_machine else min(self.inside, self.between)

    def all_gather(self, total_bytes: float, gpus: int) -> float:
        """Return the seconds until every GPU has `total_bytes`, of which each had an equal part; also of a reduce-scatter.

        A ring: each GPU passes on the parts of all others.
        """
        return (gpus - 1) / gpus * total_bytes / self.bandwidth(gpus) + (gpus - 1) * self.latency_s

    def all_reduce(self, total_bytes: float, gpus: int) -> float:
        """Return the seconds of a sum of `total_bytes` over all GPUs. Each sends and receives nearly twice that; hops of a tree."""
        hops = 2 * math.ceil(math.log2(gpus)) if gpus > 1 else 0
        return 2 * (gpus - 1) / gpus * total_bytes / self.bandwidth(gpus) + hops * self.latency_s


@dataclass(frozen=True)
class Messages:
    """Bytes that a step communicates, and bytes of a checkpoint.

    Attributes:
        gradients: gradients of all trained parameters.
        features: features of the global batch, all kinds; their gradients have the same size.
        checkpoint: weights and optimizer state.
    """

    gradients: int
    features: int
    checkpoint: int


@dataclass(frozen=True)
class Costs:
    """What a step costs besides computing and communicating.

    Attributes:
        floor_s: shortest step of one GPU.
        host_s: constant for each step.
        checkpoint_rate: bytes per second at which a checkpoint is copied to CPU memory, or written, if a step waits
            for that; 0: no waiting.
        checkpoint_steps: steps between two checkpoints.
    """

    floor_s: float = 0.0
    host_s: float = 0.0
    checkpoint_rate: float = 0.0
    checkpoint_steps: int = 500


@dataclass(frozen=True)
class ScaledStep:
    """One row of the table; times in seconds."""

    gpus: int
    samples_per_gpu: int
    compute: float
    gather: float
    gather_backward: float
    gradients: float
    other: float
    step: float
    efficiency: float
    samples_per_day: float


Steps = Sequence[tuple[int, float]]
"""Samples on one GPU, and the seconds of a step with them, without communication."""


def messages_of(size: str, pixels: int, batch: int, kinds: int = 3, communication: str = "fp32") -> Messages:
    """Return the sizes for a named model.

    Args:
        size: name of the model.
        pixels: pixels per side.
        batch: samples of a step, over all GPUs.
        kinds: feature vectors of a sample: image, web caption and fragment.
        communication: precision of what is sent.
    """
    import torch

    from benchmarks.step import config_of
    from clips_pipeline.models.clips import ClipsModel

    with torch.device("meta"):
        model = ClipsModel(config_of(size, pixels=pixels))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    sent = BYTES[communication]
    return Messages(trained * sent, batch * kinds * model.config.embed_dim * sent, trained * STATE_BYTES)


def compute_seconds(steps: Steps, samples: int, floor_s: float = 0.0) -> float:
    """Return the seconds of a step of one GPU.

    Args:
        steps: known steps, at least one.
        samples: samples of the step.
        floor_s: lower bound of the result.
    """
    known = sorted(steps)
    (first, first_s), (last, last_s) = known[0], known[-1]
    if samples <= first:
        seconds = samples * first_s / first
    elif samples >= last:
        seconds = samples * last_s / last
    else:
        (low, low_s), (high, high_s) = next(pair for pair in itertools.pairwise(known) if samples <= pair[1][0])
        seconds = low_s + (high_s - low_s) * (samples - low) / (high - low)
    return max(floor_s, seconds)


def exposed_gradients(messages: Messages, compute: float, chunks: int, gpus: int, network: Network) -> float:
    """Return the seconds by which the gradients prolong a step.

    Args:
        messages: sizes.
        compute: seconds of the step of one GPU.
        chunks: chunks of the batch of a GPU; only during the backward pass of the last one can gradients travel.
        gpus: number of GPUs.
        network: links.
    """
    if gpus == 1:
        return 0.0
    last_bucket = network.all_reduce(min(messages.gradients, BUCKET_BYTES), gpus)
    return max(last_bucket, network.all_reduce(messages.gradients, gpus) - BACKWARD * compute / chunks)


def scaled_step(
    gpus: int,
    batch: int,
    steps: Steps,
    messages: Messages,
    network: Network,
    costs: Costs,
    *,
    chunk: int | None = None,
) -> ScaledStep:
    """Return the modeled step.

    Args:
        gpus: number of GPUs, a divisor of the batch.
        batch: samples of a step, over all GPUs.
        steps: known steps of one GPU.
        messages: sizes.
        network: links.
        costs: what else a step costs.
        chunk: samples of a chunk; None: the batch of a GPU is one.

    Raises:
        SystemExit: the batch cannot be divided over the GPUs.
    """
    if batch % gpus:
        raise SystemExit(f"--batch {batch} cannot be divided over {gpus} GPUs; use a multiple")
    mine = batch // gpus
    compute = compute_seconds(steps, mine, costs.floor_s)
    # The backward pass sends as much in the other direction.
    gather = gather_backward = network.all_gather(messages.features, gpus)
    gradients = exposed_gradients(messages, compute, math.ceil(mine / (chunk or mine)), gpus, network)
    waiting = messages.checkpoint / costs.checkpoint_rate / costs.checkpoint_steps if costs.checkpoint_rate else 0.0
    other = costs.host_s + waiting
    step = compute + gather + gather_backward + gradients + other
    best = max(samples / seconds for samples, seconds in steps)
    return ScaledStep(
        gpus=gpus,
        samples_per_gpu=mine,
        compute=compute,
        gather=gather,
        gather_backward=gather_backward,
        gradients=gradients,
        other=other,
        step=step,
        efficiency=mine / step / best,
        samples_per_day=batch / step * SECONDS_A_DAY,
    )
