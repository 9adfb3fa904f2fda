"""Loss curves of one training with sums between blocks in float32 and in bfloat16 (`train.launch.residual`).

    python -m benchmarks.residual data/06_models/runs/*/run_spec.json [--samples 36000] [--threads 1] [--only bf16] [--json]

Trains the model of a run spec again, from the same weights and with the same batches: in float32; under bfloat16 autocast with
float32 sums; and under autocast with bfloat16 sums. It runs without Composer, which refuses autocast on a CPU, and writes no file.
Losses are means over tenths of the training; retrieval is that of the held-out images after the last step.
"""

import argparse
import json
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

SIDES = {"fp32": (False, False), "autocast": (True, False), "bf16": (True, True)}
"""By name: whether products are in bfloat16, and whether sums are."""
PARTS = 10


def train(spec_file: Path, samples: int | None, threads: int | None, side: str) -> dict[str, Any]:
    """Train in one process and return the curve and the held-out metrics."""
    import torch

    from clips_pipeline.models.precision import halve_stream
    from clips_pipeline.training.run_spec import load_spec
    from clips_pipeline.training.training_run import TrainingRun

    spec = load_spec(spec_file)
    launch = replace(spec.train.launch, precision="fp32", residual="fp32", processes=1, threads=threads)
    config = replace(spec.train, samples=samples or spec.train.samples, launch=launch)
    run = TrainingRun(replace(spec, train=config), None)
    autocast, halves = SIDES[side]
    halve_stream(run.clips, halves)
    device = torch.device("cuda" if run.device == "gpu" else "cpu")
    run.model.to(device).train()
    history: dict[str, list[float]] = {}
    begin, epoch, done = time.perf_counter(), 0, 0
    while done < config.steps:
        run.loader.dataset.set_epoch(epoch)
        for batch in run.loader:
            run.model.step = done
            with torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext():
                losses = run.model.loss(run.model(batch), batch)
            losses.pop("total").backward()
            run.optimizer.step()
            run.optimizer.zero_grad()
            run.schedule.step()
            for name, value in losses.items():
                history.setdefault(name, []).append(value.item())
            done += 1
            if done == config.steps:
                break
        epoch += 1
    seconds = time.perf_counter() - begin
    metrics = run.held_out(run.clips.eval())
    part = -(-config.steps // PARTS)
    curves = {
        name: [round(sum(values[i : i + part]) / len(values[i : i + part]), 4) for i in range(0, len(values), part)]
        for name, values in history.items()
    }
    return {"side": side, "samples": config.samples, "seconds": round(seconds, 1), **curves, **metrics}


def main() -> None:
    """Train each side and print its curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path, help="run_spec.json of a training")
    parser.add_argument("--samples", type=int, help="default: those of the run spec")
    parser.add_argument("--threads", type=int, help="threads of PyTorch; default: all cores")
    parser.add_argument("--only", choices=SIDES, help="one side alone")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each side")
    options = parser.parse_args()
    for side in [options.only] if options.only else SIDES:
        found = train(options.spec, options.samples, options.threads, side)
        if options.json:
            print(json.dumps(found), flush=True)
            continue
        for name, value in found.items():
            print(f"{name:24} {' '.join(map(str, value)) if isinstance(value, list) else value}", flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()
