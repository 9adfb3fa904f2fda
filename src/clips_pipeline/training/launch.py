"""Start the workers of a run spec and follow their event log: one road for 1 and for N processes.

Loads no torch. The caller gets every event through a function, may ask the workers to stop, and learns the outcome.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.shards.storage import Options
from clips_pipeline.training.events import Event, EventReader
from clips_pipeline.training.spec import STORAGE_OPTIONS, RunSpec, load_spec

POLL_SECONDS = 0.2
WORKER = "clips_pipeline.training.start"
STOP_GRACE_SECONDS = 20.0


class TrainingFailedError(RuntimeError):
    """The workers ended without finishing; the message says why and where the log is."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        step: optimiser steps done.
        finished: False when it stopped on request.
        metrics: the last held-out metrics.
        skipped: samples skipped by reason.
    """

    step: int
    finished: bool
    metrics: dict[str, float]
    skipped: dict[str, int]


def launch(
    spec: RunSpec,
    on_event: Callable[[Event], None],
    reader: EventReader | None = None,
    storage_options: Options | None = None,
) -> Outcome:
    """Train `spec` in `spec.train.launch.processes` workers and wait; the same call resumes what was interrupted.

    Args:
        spec: what to train.
        on_event: called in this process for every event, in order, while the workers train.
        reader: where in the log to begin; by default only events of this launch are handed out.
        storage_options: credentials for shards elsewhere (fsspec's options by protocol); they reach the workers through
            their environment and stand in no file.

    Raises:
        ConfigError: the run folder holds another training.
        TrainingFailedError: a worker failed.
    """
    path = prepare_run_folder(spec)
    spec.stop_flag.unlink(missing_ok=True)
    if reader is None:
        reader = EventReader(spec.events, offset=spec.events.stat().st_size if spec.events.exists() else 0)
    log_path = Path(spec.run_folder) / "worker.log"
    end: Event | None = None
    error: str | None = None
    metrics: dict[str, float] = {}
    with log_path.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and module, no shell
            _command(spec, path),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(storage_options or {}),
            start_new_session=True,
        )
        try:
            running = True
            while running:
                running = process.poll() is None
                for event in reader.read():
                    if event["kind"] == "end":
                        end = event
                    elif event["kind"] == "error":
                        error = event["message"]
                    elif event["kind"] == "evaluation":
                        metrics = event["metrics"]
                    on_event(event)
                if running:
                    time.sleep(POLL_SECONDS)
        finally:
            _end(process)
    if end is None or process.returncode != 0:
        reason = error or f"the workers ended with exit code {process.returncode}:\n{_tail(log_path)}"
        raise TrainingFailedError(
            f"{reason}\nThe full output is in {log_path}. The same command resumes from the last checkpoint."
        )
    return Outcome(step=end["step"], finished=end["finished"], metrics=metrics, skipped=end["skipped"])


def prepare_run_folder(spec: RunSpec) -> Path:
    """Make the run folder and write the spec into it.

    Raises:
        ConfigError: the folder belongs to another training; resuming would mix two runs.
    """
    folder = Path(spec.run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run_spec.json"
    if path.exists() and load_spec(path).fingerprint != spec.fingerprint:
        raise ConfigError(f"{folder}: holds a training with other parameters or data; move it away or delete it")
    spec.save(path)
    return path


def _command(spec: RunSpec, path: Path) -> list[str]:
    processes = spec.train.launch.processes
    if processes == 1:
        # Composer's launcher only tells several workers of each other; for one it would just load Composer a second time.
        return [sys.executable, "-m", WORKER, str(path)]
    return [sys.executable, "-m", "composer.cli.launcher", "-n", str(processes), "--module_mode", WORKER, str(path)]


def _environment(storage_options: Options) -> dict[str, str]:
    # Idle OpenMP threads that spin steal the cores from loader workers and from each other's ranks. A spin of microseconds
    # steals nothing and bridges the gaps between a small model's operations, where falling asleep costs a fifth of a step.
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000", "PYTHONUNBUFFERED": "1"}
    found = {**defaults, **os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**found, STORAGE_OPTIONS: json.dumps(storage_options)} if storage_options else found


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no worker behind, whatever ended the wait (an interrupt, a broken event, a normal end)."""
    if process.poll() is not None:
        return
    for sign, seconds in ((signal.SIGTERM, STOP_GRACE_SECONDS), (signal.SIGKILL, STOP_GRACE_SECONDS)):
        try:
            os.killpg(process.pid, sign)
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return
        return


def _tail(path: Path, lines: int = 15) -> str:
    text = path.read_text(errors="replace").splitlines()
    return "\n".join(text[-lines:])
