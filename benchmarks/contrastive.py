"""Benchmark of the contrastive loss: memory and time on one rank, by size of the global batch.

    python -m benchmarks.contrastive [--rows 1024] [--columns 1024 8192 65536] [--width 768] [--json]

It measures one rank of many: its rows against the columns of all ranks, forward and backward. The features of the other ranks are
random; gathering them is not timed. Each size runs in a separate process. `peak_gib` is the memory that the loss adds to the
process. `features_gib` is its part that must grow with the batch: the gathered features and their gradients. `naive_gib` is the
memory of the logits of all rows, in four softmaxes with one copy each for the backward pass.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any


def measure(rows: int, columns: int, width: int) -> dict[str, float]:
    """Measure one rank in this process."""
    import torch

    from clips_pipeline.losses.contrastive import gathered_terms

    torch.manual_seed(0)

    def unit(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, width), dim=1).requires_grad_()

    # The first matrix product allocates memory that later ones reuse.
    (unit(64) @ unit(64).T).sum().backward()
    before = _now_bytes()
    gathered = [unit(columns) for _ in range(3)]
    local = [features[:rows] for features in gathered]
    scale = torch.tensor(14.3, requires_grad=True)
    started = time.perf_counter()
    web, fragment = gathered_terms(local, gathered, scale, 0, None)
    ((web + fragment) / 2).backward()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "columns": columns,
        "rows": rows,
        "seconds": round(seconds, 2),
        "peak_gib": round((peak - before) / 2**30, 3),
        "features_gib": round(2 * 3 * columns * width * 4 / 2**30, 3),
        "naive_gib": round(4 * 2 * rows * columns * 4 / 2**30, 3),
    }


def _now_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024, help="rows of this rank")
    parser.add_argument("--columns", type=int, nargs="+", default=[1024, 4096, 16384, 65536], help="rows of all ranks")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--json", action="store_true", help="print one line of JSON per size")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    for columns in options.columns:
        request = json.dumps([options.rows, columns, options.width])
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.contrastive", "--measure", request]
        process = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
        print(json.dumps(found) if options.json else "  ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
