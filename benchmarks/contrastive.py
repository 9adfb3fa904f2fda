"""Memory and time of the contrastive loss on one rank, as the global batch grows.

    python -m benchmarks.contrastive [--rows 1024] [--columns 1024 8192 65536] [--width 768] [--json]

One rank of many: its own rows against the columns of all, forward and backward. Features of the other ranks are random; gathering
them is not timed. Each size runs in a process of its own. `peak_gib` is what the loss adds to the process; `features_gib`, the
gathered features and their gradients, is the part of it that must grow with the batch; `naive_gib` is what the logits of all rows
would take alone, in four softmaxes with one copy each for the backward pass.
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
    """One rank in this process."""
    import torch

    from clips_pipeline.losses.contrastive import gathered_terms

    torch.manual_seed(0)

    def unit(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, width), dim=1).requires_grad_()

    # The first use of a matrix product takes memory of its own.
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
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024, help="of this rank")
    parser.add_argument("--columns", type=int, nargs="+", default=[1024, 4096, 16384, 65536], help="of all ranks")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--json", action="store_true", help="print one line of JSON per size")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    for columns in options.columns:
        asked = json.dumps([options.rows, columns, options.width])
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.contrastive", "--measure", asked]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(found) if options.json else "  ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
