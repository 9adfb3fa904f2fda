"""Measurement of a few training steps in a separate process: `python -m clips_pipeline.training.step_timer`.

Reads one JSON object from standard input (`train`, `vocab_size`, `rows`) and writes one to standard output. It changes no file.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from joblib import cpu_count

from clips_pipeline.config import from_mapping
from clips_pipeline.io.free_memory import free_memory
from clips_pipeline.losses.total import LossWeights, clips_loss
from clips_pipeline.models.blocks import Block, keep_hidden_layers, recompute_blocks
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.compiled import compile_blocks
from clips_pipeline.models.flops import forward_flops_by_part
from clips_pipeline.models.precision import allow_tf32, halve_stream
from clips_pipeline.models.rows.layout import step_layout
from clips_pipeline.models.sizes import ClipsConfig
from clips_pipeline.text.methods import CONTRASTIVE_METHODS
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.estimate import samples_at_once
from clips_pipeline.training.machine.hidden_layers import keeps_hidden_layers
from clips_pipeline.training.optimizer import make_optimizer
from clips_pipeline.training.resolve import fragment_lengths, model_config

STEPS = 5
SAMPLES = {"cpu": (2, 8), "cuda": (8, 64)}
"""Sizes of the small batches that are always measured, by device; their difference gives the cost of one more sample. A GPU with
fewer samples would wait for its host most of the time.
"""
MAX_SECONDS = 40.0
"""The training's own batch is measured if its steps are expected to take no longer than this in total..."""
MAX_MEMORY_FRACTION = 0.7
"""...and no more than this fraction of the free memory."""

Rows = Sequence[Sequence[Sequence[int]]]
"""For each sample, the ids of the web caption, of the fragment and of the target."""


def measure(config: TrainConfig, vocab_size: int, rows: Rows | None = None) -> dict[str, Any]:
    """Count parameters and FLOPs by part, and measure seconds and memory of a few steps.

    Args:
        config: the training.
        vocab_size: number of ids of its tokenizer.
        rows: rows of training samples; None measures with rows without padding, which cost most.

    Returns:
        `parameters` and `forward_flops` by part; `kept_sample_bytes`, of each sample outside the chunk that runs; `device`;
        `threads`; `samples`, `seconds` (of each step), `cpu_seconds` and `peak_bytes` of the measured batches, the largest last:
        that of one rank (with `launch.chunk_size`: one chunk), if time and memory allow it.
    """
    resolved = model_config(config, vocab_size)
    on_gpu = config.launch.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    cores = cpu_count()
    torch.set_num_threads(config.launch.threads or max(1, cores // (1 if on_gpu else config.launch.processes)))
    captions = config.captions
    fragments = fragment_lengths(config)
    context, target = captions.context_length if config.method in CONTRASTIVE_METHODS else 0, captions.target_length
    model = ClipsModel(resolved).to(device)
    for part in config.freeze:
        getattr(model, part).requires_grad_(False)
    # As in `training_run`.
    recompute_blocks(model, config.launch.recomputation == "block")
    at_once = samples_at_once(config)
    keep_hidden_layers(
        model, keeps_hidden_layers(config, resolved, at_once, ranks_here=config.launch.processes, on_gpu=on_gpu)
    )
    halve_stream(model, config.launch.residual == "bf16")
    allow_tf32(config.launch.tf32)
    if config.launch.compiles(on_gpu=on_gpu):
        compile_blocks(model)
    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    steps = _StepTimer(config, model, device, vocab_size, (context, fragments, target), rows)
    for count in sorted({min(count, at_once) for count in SAMPLES[device.type]}):
        steps.run(count)
    if at_once not in steps.samples and steps.fits(at_once):
        steps.run(at_once)
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.modules() if isinstance(block, Block)]
    return {
        "parameters": {**parts, **_scalars(model)},
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "block_parameters": {"all": sum(blocks), "largest": max(blocks)},
        "optimizer_numbers": steps.optimizer_numbers(),
        "kept_sample_bytes": _kept_sample_bytes(resolved, target),
        "forward_flops": forward_flops_by_part(
            resolved, context, fragments, target - 1, config.model.image_tokens_kept
        ),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "real_rows": rows is not None,
        "samples": steps.samples,
        "seconds": steps.seconds,
        "cpu_seconds": steps.cpu_seconds,
        "peak_bytes": steps.peaks,
    }


class _StepTimer:
    """Runs and measures steps with batches of several sizes."""

    def __init__(
        self,
        config: TrainConfig,
        model: ClipsModel,
        device: torch.device,
        vocab_size: int,
        lengths: tuple[int, tuple[int, ...], int],
        rows: Rows | None,
    ) -> None:
        self.config, self.model, self.device, self.vocab_size = config, model, device, vocab_size
        self.lengths, self.rows = lengths, rows
        self.optimizer = make_optimizer(model, config.optimizer)
        self.schedule = None
        if config.model.patch_dropout or config.model.image_tokens_kept < 1:
            # Imported here: it loads Composer.
            from clips_pipeline.training.callbacks.image_schedule import ImageSchedule

            vision = model.config.vision
            self.schedule = ImageSchedule(replace(config, progressive=None), vision.image_size, vision.patch_size)
        self.weights = LossWeights(config.loss.contrastive_weight, config.loss.caption_weight)
        self.samples: list[int] = []
        self.seconds: list[list[float]] = []
        self.cpu_seconds: list[list[float]] = []
        self.peaks: list[int] = []

    def run(self, count: int) -> None:
        """Measure steps of `count` samples, after one step of warm-up."""
        size = self.model.config.vision.image_size
        images = torch.randn(count, 3, size, size, device=self.device)
        web, fragment, target = (self._ids(count, which) for which in range(3))
        layout = step_layout(self.model.config, web, fragment, target).to(self.device)
        kept = None if self.schedule is None else self.schedule.kept_patches(count, 0, self.device)
        captioned = None if self.schedule is None else self.schedule.captioned_tokens(count, 0, self.device)
        times, cpu_times = [], []
        for _ in range(STEPS + 1):
            started, cpu_started = time.perf_counter(), time.process_time()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.launch.precision == "amp_bf16"):
                output = self.model(images, web, fragment, target, kept, captioned, layout)
                head = None if self.model.captioner is None else self.model.captioner.head.weight
                total = clips_loss(output, head, self.weights).total
            total.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
            cpu_times.append(time.process_time() - cpu_started)
        self.samples.append(count)
        self.seconds.append(times[1:])
        self.cpu_seconds.append(cpu_times[1:])
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peaks.append(int(torch.cuda.max_memory_allocated()) if self.device.type == "cuda" else resident)

    def fits(self, count: int) -> bool:
        """Return whether steps of `count` samples should stay within `MAX_SECONDS` and the memory, by the steps so far."""
        slope = 0.0
        if len(self.samples) > 1:
            slope = max(0.0, (self.peaks[-1] - self.peaks[-2]) / (self.samples[-1] - self.samples[-2]))
        more = slope * (count - self.samples[-1])
        seconds = (STEPS + 1) * median(self.seconds[-1]) * count / self.samples[-1]
        return seconds <= MAX_SECONDS and more <= MAX_MEMORY_FRACTION * _free_memory(self.device)

    def optimizer_numbers(self) -> int:
        """Return how many numbers the optimizer keeps, without its counts of steps."""
        kept = (value for state in self.optimizer.state.values() for value in state.values())
        return sum(value.numel() for value in kept if isinstance(value, torch.Tensor) and value.dim())

    def _ids(self, count: int, which: int) -> torch.Tensor:
        length = self.lengths[which]
        sizes = (length,) if isinstance(length, int) else length or (0,)
        if self.rows is None or not sizes[0]:
            shape = (count, sizes[0]) if len(sizes) == 1 else (count, len(sizes), sizes[0])
            return torch.randint(3, self.vocab_size, shape, device=self.device)
        return torch.tensor([self.rows[i % len(self.rows)][which] for i in range(count)], device=self.device)


def _kept_sample_bytes(config: ClipsConfig, target_length: int) -> int:
    """Return the bytes that a step in chunks keeps of each sample, at most.

    The image as it came, in float32, and in its chunk's input; the captioner's states at all targets and their gradient.
    """
    pixels = 3 * config.vision.image_size**2
    states = 0 if config.captioner is None else (target_length - 1) * config.captioner.width
    return (1 + 4 + 4) * pixels + 2 * 4 * states


def _scalars(model: ClipsModel) -> dict[str, int]:
    names = {"logit_scale": "logit scale", "logit_bias": "logit bias"}
    return {names[name]: 1 for name, _ in model.named_parameters(recurse=False)}


def _free_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return float(free_memory())


def main() -> int:
    """Measure the training that standard input describes."""
    request = json.load(sys.stdin)
    config = from_mapping(TrainConfig, request["train"], "train")
    print(json.dumps(measure(config, request["vocab_size"], request["rows"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
