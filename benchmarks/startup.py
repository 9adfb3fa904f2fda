"""Benchmark of the start: seconds from `kedro run --pipelines train` to the first training step on prepared data.

    python -m benchmarks.startup [--env ENV] [--json]

Prepares the data of the environment first (not timed), and stops the run as soon as the event log has the first step. Also
measures `kedro --help` and checks that the pipeline registry does not import torch.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SEED = 987_654  # gives the benchmark its own run folder
LIMIT_SECONDS = 300


def first_step_seconds(env: str, runs: Path) -> float:
    """Return the seconds from the start of the process to the first `step` event."""
    before = set(runs.glob("*"))
    started = time.time()
    command = [sys.executable, "-m", "kedro", "run", "--pipelines", "train", "--env", env]
    command += ["--params", f"train.seed={SEED},train.every.log=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while time.time() - started < LIMIT_SECONDS:
            for folder in set(runs.glob("*")) - before:
                log = folder / "events.jsonl"
                for line in log.read_text().splitlines() if log.exists() else []:
                    event = json.loads(line)
                    if event["kind"] == "step":
                        return float(event["time"]) - started
            if process.poll() is not None:
                raise SystemExit(f"`{' '.join(command)}` ended with {process.returncode} before its first step")
            time.sleep(0.05)
        raise SystemExit(f"no step within {LIMIT_SECONDS} s")
    finally:
        if process.poll() is None:
            # Kedro ends the ranks when it is interrupted.
            os.killpg(process.pid, signal.SIGINT)
            process.wait()
        for folder in set(runs.glob("*")) - before:
            shutil.rmtree(folder)


def help_seconds() -> tuple[float, bool]:
    """Return the seconds of `kedro --help`, and whether the pipeline registry imports torch."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "kedro", "--help"], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    code = "import sys, clips_pipeline.pipeline_registry as r; r.register_pipelines(); print('torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return seconds, process.stdout.strip() == "True"


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="smoke")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    prepare = [sys.executable, "-m", "kedro", "run", "--pipelines", "prepare", "--env", options.env]
    subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
    data = Path("data") if options.env in ("base", "local") else Path("data") / options.env
    runs = data / "06_models" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    first = first_step_seconds(options.env, runs)
    seconds, torch_loaded = help_seconds()
    figures = {"first_step_s": round(first, 2), "kedro_help_s": round(seconds, 2), "registry_loads_torch": torch_loaded}
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
