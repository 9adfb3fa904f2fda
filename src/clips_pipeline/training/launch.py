"""Start the workers of a run spec and follow their event log: one road for 1 and for N processes.

Loads no torch. The caller gets every event through a function, may ask the workers to stop, and learns the outcome.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.shards.storage import Options
from clips_pipeline.training.events import Event, EventReader
from clips_pipeline.training.failure import explain, silent
from clips_pipeline.training.follow import follow, show
from clips_pipeline.training.outcome import POLL_SECONDS, WORKER, Followed, Outcome
from clips_pipeline.training.outcome import TrainingFailedError as TrainingFailedError
from clips_pipeline.training.ranks import Ranks
from clips_pipeline.training.signs import Silence, forget, silent_after_s
from clips_pipeline.training.spec import STORAGE_OPTIONS, RunSpec, load_spec


def launch(
    spec: RunSpec,
    on_event: Callable[[Event], None],
    reader: EventReader | None = None,
    storage_options: Options | None = None,
) -> Outcome:
    """Train `spec` in `spec.train.launch.processes` ranks and wait; the same call resumes what was interrupted.

    With `spec.train.launch.start` false the ranks are started elsewhere, and this follows them.

    Args:
        spec: what to train.
        on_event: called in this process for every event, in order, while the workers train.
        reader: where in the log to begin; by default only events of this launch are handed out.
        storage_options: credentials for shards elsewhere (fsspec's options by protocol); they reach the workers through
            their environment and stand in no file.

    Raises:
        ConfigError: the run folder holds another training.
        TrainingFailedError: a rank failed, died or hung; those that were started here have been ended.
    """
    path = prepare_run_folder(spec)
    spec.stop_flag.unlink(missing_ok=True)
    if reader is None:
        reader = EventReader(spec.events, offset=spec.events.stat().st_size if spec.events.exists() else 0)
    run_folder = Path(spec.run_folder)
    forget(run_folder)
    followed = Followed(on_event)
    if spec.train.launch.start:
        _run(spec, path, followed, reader, environment_of_ranks(storage_options or {}))
    else:
        follow(spec, path, followed, reader, show)
    return followed.outcome()


def _run(spec: RunSpec, path: Path, followed: Followed, reader: EventReader, environment: dict[str, str]) -> None:
    run_folder, timeout_s = Path(spec.run_folder), spec.train.launch.rank_timeout_s
    forget(run_folder)
    silence, quiet = Silence(run_folder), None
    command = [sys.executable, "-m", WORKER, str(path)]
    with Ranks(command, spec.train.launch.processes, run_folder, environment) as ranks:
        while ranks.running() and quiet is None:
            followed.take(reader.read())
            quiet = silent(silence.look(), timeout_s)
            time.sleep(POLL_SECONDS)
        ended, heard = ranks.failed(), silence.look()
        if ended is not None:
            quiet = silent(heard, silent_after_s(timeout_s))
    followed.take(reader.read())
    if followed.end is None or ended is not None or quiet is not None:
        # Read again, for what a rank may have told since; but that it was silent until it was ended still holds.
        last = {rank: (sign, heard[rank][1] if rank in heard else 0.0) for rank, (sign, _) in silence.look().items()}
        reason = explain(last, quiet, ended, followed.error, dict(enumerate(ranks.logs)))
        beside = " and those beside it" if len(ranks.logs) > 1 else ""
        raise TrainingFailedError(
            f"{reason}\nThe full output is in {ranks.logs[0]}{beside}. "
            "The same command resumes from the last checkpoint."
        )


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


def environment_of_ranks(storage_options: Options) -> dict[str, str]:
    """This process's own, with what ranks need."""
    # Idle OpenMP threads that spin steal the cores from loader workers and from each other's ranks. A spin of microseconds
    # steals nothing and bridges the gaps between a small model's operations, where falling asleep costs a fifth of a step.
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000", "PYTHONUNBUFFERED": "1"}
    # An operation among GPUs that cannot end because of a dead rank ends the process.
    defaults["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "1"
    found = {**defaults, **os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**found, STORAGE_OPTIONS: json.dumps(storage_options)} if storage_options else found
