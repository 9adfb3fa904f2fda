"""Start the workers of a run spec and follow their event log: one road for 1 and for N processes.

Loads no torch. The caller gets every event through a function, may ask the workers to stop, and learns the outcome.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from clips_pipeline.shards.storage import Options
from clips_pipeline.training import run_folder
from clips_pipeline.training.events import Event, EventReader
from clips_pipeline.training.failure import explain, silent
from clips_pipeline.training.folder_lock import FOLLOWER, hold, wait_for_orphans
from clips_pipeline.training.follow import follow, show
from clips_pipeline.training.interrupt import INTERRUPTED, ORPHAN_SECONDS, Terminated
from clips_pipeline.training.outcome import POLL_SECONDS, WORKER, Followed, Outcome, TrainingInterruptedError
from clips_pipeline.training.outcome import TrainingFailedError as TrainingFailedError
from clips_pipeline.training.ranks import STOP_GRACE_SECONDS, Ranks
from clips_pipeline.training.signs import Silence, forget, silent_after_s
from clips_pipeline.training.spec import STORAGE_OPTIONS, RunSpec


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
        ConfigError: the run folder holds another training, or somebody trains there now.
        TrainingFailedError: a rank failed, died or hung; those that were started here have been ended.
        TrainingInterruptedError: a SIGTERM to this process or a rank ended it, after a checkpoint.
    """
    folder = Path(spec.run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder, FOLLOWER):
        wait_for_orphans(folder, ORPHAN_SECONDS + STOP_GRACE_SECONDS)
        return _launch(spec, on_event, reader, storage_options or {})


def _launch(
    spec: RunSpec, on_event: Callable[[Event], None], reader: EventReader | None, storage_options: Options
) -> Outcome:
    path = run_folder.prepare(spec)
    spec.stop_flag.unlink(missing_ok=True)
    if reader is None:
        reader = EventReader(spec.events, offset=spec.events.stat().st_size if spec.events.exists() else 0)
    forget(Path(spec.run_folder))
    followed = Followed(on_event)
    if spec.train.launch.start:
        _run(spec, path, followed, reader, environment_of_ranks(storage_options))
    else:
        follow(spec, path, followed, reader, show)
    return followed.outcome()


def _run(spec: RunSpec, path: Path, followed: Followed, reader: EventReader, environment: dict[str, str]) -> None:
    folder, timeout_s = Path(spec.run_folder), spec.train.launch.rank_timeout_s
    forget(folder)
    silence, quiet = Silence(folder), None
    command = [sys.executable, "-m", WORKER, str(path)]
    with Terminated() as terminated, Ranks(command, spec.train.launch.processes, folder, environment) as ranks:
        passed_on = False
        while ranks.running() and quiet is None:
            if terminated.asked and not passed_on:
                passed_on = True
                ranks.terminate()
            followed.take(reader.read())
            quiet = silent(silence.look(), timeout_s)
            time.sleep(POLL_SECONDS)
        ended, heard = ranks.failed(), silence.look()
        if ended is not None:
            quiet = silent(heard, silent_after_s(timeout_s))
    followed.take(reader.read())
    if ended is not None and ended[1] == INTERRUPTED and followed.interrupted is not None:
        return
    if ended is not None and passed_on and ended[1] in (-signal.SIGTERM, 128 + signal.SIGTERM):
        raise TrainingInterruptedError(
            "interrupted by SIGTERM before the first step; the same command begins there again"
        )
    if followed.end is None or ended is not None or quiet is not None:
        # Read again, for what a rank may have told since; but that it was silent until it was ended still holds.
        last = {rank: (sign, heard[rank][1] if rank in heard else 0.0) for rank, (sign, _) in silence.look().items()}
        reason = explain(last, quiet, ended, followed.error, dict(enumerate(ranks.logs)))
        beside = " and those beside it" if len(ranks.logs) > 1 else ""
        raise TrainingFailedError(
            f"{reason}\nThe full output is in {ranks.logs[0]}{beside}. "
            "The same command resumes from the last checkpoint."
        )


def environment_of_ranks(storage_options: Options) -> dict[str, str]:
    """This process's own, with what ranks need."""
    # Idle OpenMP threads that spin steal the cores from loader workers and from each other's ranks. A spin of microseconds
    # steals nothing and bridges the gaps between a small model's operations, where falling asleep costs a fifth of a step.
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000", "PYTHONUNBUFFERED": "1"}
    # An operation among GPUs that cannot end because of a dead rank ends the process.
    defaults["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "1"
    found = {**defaults, **os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**found, STORAGE_OPTIONS: json.dumps(storage_options)} if storage_options else found
