"""Benchmark of the training step on one GPU, in at most 8 minutes: `python -m benchmarks.gpu --budget 450 --out FOLDER`.

It needs torch, NumPy, Pillow and simplejpeg alone, and runs from a checkout with `PYTHONPATH=src`. Every part runs in a process of
its own with a time limit, and appends JSON lines to FOLDER/results.jsonl as they come, so that a crash costs one part.

    machine     versions; measured peak of matrix products in bf16, TF32 and float32; bandwidth
    equality    loss and gradients against float64 on the CPU; waits of the host in a step
    attention   which kernel runs at each call site
    speed:…     samples/s, MFU and memory of one case, beside `benchmarks.plain`, both with and without torch.compile
    profile     where the time of one step goes
    loader      images/s by the number of workers; then loader and step together

`--smoke` runs the same code with tiny models on a CPU, as the tests do.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Line = dict[str, Any]
LIMITS = {"machine": 30, "equality": 75, "attention": 30, "profile": 60, "loader": 80}
SPEED_LIMIT = 130
GRACE = 5.0
"""Seconds that are left for the last lines."""


def cases(smoke: bool) -> list[Any]:
    """Return the cases of the parts `speed:…`."""
    from benchmarks.gpu.setup import CASES, SMOKE_CASES

    return list(SMOKE_CASES if smoke else CASES)


def part_names(smoke: bool) -> list[str]:
    """Return all parts, the most important first."""
    speed = [f"speed:{case.name}" for case in cases(smoke)]
    # The loader's part compiles the model of the fourth case, and finds its kernels in the cache on the disk.
    return ["machine", "equality", "attention", *speed[:3], "profile", *speed[3:4], "loader", *speed[4:]]


def lines_of(name: str, smoke: bool) -> Iterator[Line]:
    """Run one part in this process."""
    # As a training; the parts that measure precision change it.
    from clips_pipeline.models.precision import allow_tf32

    allow_tf32(True)
    if name.startswith("speed:"):
        from benchmarks.gpu.speed import measure

        yield from measure(next(case for case in cases(smoke) if case.name == name[6:]), smoke=smoke)
        return
    from importlib import import_module

    run: Callable[..., Iterator[Line]] = import_module(f"benchmarks.gpu.{name}").measure
    yield from run(smoke=smoke)


def run_part(name: str, out: Path, smoke: bool, limit: float) -> Line:
    """Run one part in a process of its own; return how it ended."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--part",
        name,
        "--out",
        str(out),
        *(["--smoke"] if smoke else []),
    ]
    began = time.monotonic()
    log = out / f"{name.replace(':', '-')}.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    ended = "ok" if code == 0 else "time limit" if code is None else f"exit code {code}"
    line = {"part": name, "ended": ended, "seconds": round(time.monotonic() - began, 1)}
    if ended != "ok":
        line["last_output"] = (log.read_text(errors="replace").strip().splitlines() or [""])[-1][:500]
    return line


def write(out: Path, line: Line) -> None:
    """Append a line to the results, and print it."""
    text = json.dumps(line)
    with (out / "results.jsonl").open("a") as file:
        file.write(text + "\n")
    print(text, flush=True)


def main() -> int:
    """Run all parts, or the one that `--part` names in this process. Return 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=450, help="seconds for everything")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--smoke", action="store_true", help="tiny models on a CPU")
    parser.add_argument("--parts", nargs="+", help="these parts only")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    from benchmarks.gpu import bare

    bare.install()
    if options.part:
        for line in lines_of(options.part, options.smoke):
            write(options.out, {"part": options.part, **line})
        return 0
    import torch

    if not options.smoke and not torch.cuda.is_available():
        print("torch finds no GPU; --smoke runs the same code on a CPU", file=sys.stderr)
        return 2
    names, began, failed = options.parts or part_names(options.smoke), time.monotonic(), False
    for name in names:
        left = options.budget - (time.monotonic() - began) - GRACE
        if left < GRACE:
            write(options.out, {"part": name, "ended": "skipped: the budget is used up"})
            continue
        line = run_part(name, options.out, options.smoke, min(left, LIMITS.get(name, SPEED_LIMIT)))
        failed |= line["ended"] != "ok"
        write(options.out, line)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
