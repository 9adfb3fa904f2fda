"""Start the workers of a run spec and follow their event log: one road for 1 and for N processes.

Loads no torch. The caller gets every event through a function, may ask the workers to stop, and learns the outcome.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.shards.storage import Options
from clips_pipeline.training.events import Event, EventReader
from clips_pipeline.training.failure import explain, silent
from clips_pipeline.training.ranks import Ranks
from clips_pipeline.training.signs import Silence, forget, silent_after_s
from clips_pipeline.training.spec import STORAGE_OPTIONS, RunSpec, load_spec

POLL_SECONDS = 0.2
WORKER = "clips_pipeline.training.start"


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
        TrainingFailedError: a rank failed, died or hung; the others have been ended.
    """
    path = prepare_run_folder(spec)
    spec.stop_flag.unlink(missing_ok=True)
    if reader is None:
        reader = EventReader(spec.events, offset=spec.events.stat().st_size if spec.events.exists() else 0)
    run_folder = Path(spec.run_folder)
    forget(run_folder)
    command = [sys.executable, "-m", WORKER, str(path)]
    followed = Followed(on_event)
    silence, timeout_s = Silence(run_folder), spec.train.launch.rank_timeout_s
    count = spec.train.launch.processes
    with Ranks(command, count, run_folder, _environment(storage_options or {})) as ranks:
        running, quiet = True, None
        while running and quiet is None:
            running = ranks.running()
            followed.take(reader.read())
            heard = silence.look()
            if running:
                quiet = silent(heard, timeout_s)
                time.sleep(POLL_SECONDS)
        ended = ranks.failed()
        heard = silence.look()
        if ended is not None:
            quiet = silent(heard, silent_after_s(timeout_s))
        logs = dict(enumerate(ranks.logs))
    followed.take(reader.read())
    if followed.end is None or ended is not None or quiet is not None:
        late = {rank: (sign, heard[rank][1] if rank in heard else 0.0) for rank, (sign, _) in silence.look().items()}
        reason = explain(late, quiet, ended, followed.error, logs)
        raise TrainingFailedError(
            f"{reason}\nThe full output is in {ranks.logs[0]}{' and those beside it' if count > 1 else ''}. "
            "The same command resumes from the last checkpoint."
        )
    return followed.outcome(followed.end)


class Followed:
    """What has been learned of a run from its events.

    Args:
        on_event: called for each of them.
    """

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self.end: Event | None = None
        self.error: str | None = None
        self._metrics: dict[str, float] = {}

    def take(self, events: Iterable[Event]) -> None:
        """Take note of new events and pass them on."""
        for event in events:
            if event["kind"] == "end":
                self.end = event
            elif event["kind"] == "error":
                self.error = event["message"]
            elif event["kind"] == "evaluation":
                self._metrics = event["metrics"]
            self._on_event(event)

    def outcome(self, end: Event) -> Outcome:
        """How it ended."""
        return Outcome(end["step"], end["finished"], self._metrics, end["skipped"])


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


def _environment(storage_options: Options) -> dict[str, str]:
    # Idle OpenMP threads that spin steal the cores from loader workers and from each other's ranks. A spin of microseconds
    # steals nothing and bridges the gaps between a small model's operations, where falling asleep costs a fifth of a step.
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000", "PYTHONUNBUFFERED": "1"}
    # An operation among GPUs that cannot end because of a dead rank ends the process.
    defaults["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "1"
    found = {**defaults, **os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**found, STORAGE_OPTIONS: json.dumps(storage_options)} if storage_options else found
