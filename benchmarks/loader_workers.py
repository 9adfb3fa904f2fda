"""Seconds to the first batch, and what a batch costs the training process, by the number of loader workers.

    python -m benchmarks.loader_workers [--workers 1 2 14] [--batch 512] [--size 112] [--json]

The photos, augmentation and captions of `benchmarks.loader`, and the layout of B/16 with `mask`. `first_batch_s` runs from the
start of the workers. `trainer_ms` is CPU time of this process for each further batch, in which it receives what the workers
send, joins it and computes the layout. `samples_per_s` is the rate of all workers together. Each number of workers is measured in
a process of its own; the runs alternate, and the results are medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from itertools import islice
from typing import Any

from benchmarks.loader import IMAGES, PER_SHARD, SAMPLES, SHARDS, caption_reader, image_config


def measure(workers: int, batch: int, size: int, batches: int) -> dict[str, float]:
    """Measure one loader."""
    import torch

    from benchmarks.gpu.setup import Case
    from clips_pipeline.data.loading.loader import train_loader
    from clips_pipeline.models.rows.layout import step_layout

    torch.set_num_threads(1)
    layout = partial(step_layout, Case("b16", size, "mask", batch).config())
    loader: Any = train_loader(
        SHARDS, "train", caption_reader(), image_config(size), global_batch_size=batch, workers=workers, layout=layout
    )
    began = time.perf_counter()
    found = iter(loader)
    next(found)
    first = time.perf_counter() - began
    figures = {"first_batch_s": first}
    if batches:
        started, used = time.perf_counter(), time.process_time()
        taken = sum(1 for _ in islice(found, batches))
        used, seconds = time.process_time() - used, time.perf_counter() - started
        figures |= {"trainer_ms": 1000 * used / taken, "samples_per_s": taken * batch / seconds}
    return figures


def main() -> None:
    """Run the measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 14], help="numbers of loader workers")
    parser.add_argument("--batch", type=int, default=512, help=f"samples of a batch, of {SAMPLES:,} of an epoch")
    parser.add_argument("--size", type=int, default=112, help="pixels per side")
    parser.add_argument("--batches", type=int, default=6, help="batches after the first one; 0 measures that one alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each number")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.batch, options.size, options.batches)))
        return
    from benchmarks.photos import make_shards

    make_shards(SHARDS, None, IMAGES, SAMPLES, PER_SHARD)
    runs: dict[int, list[dict[str, float]]] = {workers: [] for workers in options.workers}
    for _ in range(options.repeats):
        for workers in options.workers:
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.loader_workers", "--measure", str(workers)]
            command += ["--batch", str(options.batch), "--size", str(options.size), "--batches", str(options.batches)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs[workers].append(json.loads(done.stdout.splitlines()[-1]))
    for workers, found in runs.items():
        figures = {name: round(statistics.median(run[name] for run in found), 1) for name in found[0]}
        line = {"workers": workers, **figures}
        print(json.dumps(line) if options.json else "  ".join(f"{name} {value}" for name, value in line.items()))


if __name__ == "__main__":
    main()
