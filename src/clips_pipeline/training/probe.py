"""Measures a few steps of a training on random rows, in a process of its own: `python -m clips_pipeline.training.probe`.

Reads one JSON object from standard input (`train`, `vocab_size`) and writes one to standard output. Nothing else is touched.
"""

import json
import resource
import sys
import time
from statistics import median
from typing import Any

import torch

from clips_pipeline.config import from_mapping
from clips_pipeline.losses.total import LossWeights, clips_loss
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.flops import forward_flops_by_part
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.optimizer import adamw
from clips_pipeline.training.resolve import model_config

STEPS = 3
SAMPLES = (2, 8)
"""Samples of the two measured batches; what a sample more costs is the difference."""


def measure(config: TrainConfig, vocab_size: int) -> dict[str, Any]:
    """Parameters and FLOPs by part, and seconds and memory of measured steps.

    Returns:
        `parameters` and `forward_flops` by part; `device`; `samples`, `seconds` and `peak_bytes` of the measured batches (two, or
        one where the batch of a rank is that small).
    """
    built = model_config(config, vocab_size)
    on_gpu = config.launch.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if config.launch.threads is not None:
        torch.set_num_threads(config.launch.threads)
    captions = config.captions
    context, fragment = captions.context_length, captions.context_length if config.method == "clips" else 0
    target = captions.target_length - 1
    model = ClipsModel(built).to(device)
    for part in config.freeze:
        getattr(model, part).requires_grad_(False)
    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    optimizer = adamw(model, config.optimizer)
    weights = LossWeights(config.loss.contrastive_weight, config.loss.caption_weight)
    local = config.launch.chunk_size or config.batch_size // config.launch.processes
    samples = sorted({min(count, local) for count in SAMPLES})
    seconds, peaks = [], []
    for count in samples:
        size = built.vision.image_size
        images = torch.randn(count, 3, size, size, device=device)
        # Rows without padding: what is measured is the most that rows can cost.
        rows = [torch.randint(3, vocab_size, (count, n), device=device) for n in (context, fragment, target + 1)]
        times = []
        for _ in range(STEPS):
            begun = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=config.launch.precision == "amp_bf16"):
                output = model(images, *rows)
                head = None if model.captioner is None else model.captioner.head.weight
                total = clips_loss(output, head, weights).total
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        seconds.append(median(times))
        on_cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        peaks.append(int(torch.cuda.max_memory_allocated()) if on_gpu else on_cpu)
    return {
        "parameters": {**parts, "temperature": 1},
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "forward_flops": forward_flops_by_part(built, context, fragment, target),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "samples": samples,
        "seconds": seconds,
        "peak_bytes": peaks,
    }


def main() -> int:
    """Measure what standard input describes."""
    asked = json.load(sys.stdin)
    config = from_mapping(TrainConfig, asked["train"], "train")
    print(json.dumps(measure(config, asked["vocab_size"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
