"""Who works on which trial: each is handed out once, and what a killed process left is queued again.

All of it happens under the storage's lock, so that processes which share a study neither lose nor double a trial, nor go
beyond the budget together.
"""

import fcntl
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from clips_pipeline.training.events import read_all
from clips_pipeline.tuning.config import Scalar, SearchConfig
from clips_pipeline.tuning.open_study import sampler
from clips_pipeline.tuning.search_space import grid, optuna_params, suggest
from clips_pipeline.tuning.storage import StudyStorage

log = logging.getLogger(__name__)

# Attributes of a trial, shown by the dashboard and in the table of trials.
VALUES = "values"
ROOT = "first_attempt"
ATTEMPT = "attempt"
KILLS = "kills"
CONTINUED = "continued_as"
SECONDS = "seconds"
FOLDER = "run_folder"
RUN_ID = "mlflow_run_id"
COST = "flops_per_sample"
_WORKER = "worker"
_ALIVE = "alive"
_GRID = "grid_point"
# What the next attempt at the same trial takes over.
_INHERITED = (VALUES, ROOT, FOLDER, RUN_ID, COST, _GRID, "origin")


@dataclass(frozen=True)
class Worker:
    """This process: others see by its lock that it lives."""

    host: str
    lock: str


@dataclass(frozen=True)
class Claimed:
    """A trial that this process is to run.

    Attributes:
        trial: Optuna's.
        values: by path.
        root: number of its first attempt, which names its folder.
        run_id: the tracker's run of an earlier attempt.
    """

    trial: Trial
    values: dict[str, Scalar]
    root: int
    run_id: str | None


@contextmanager
def working(folder: Path) -> Iterator[Worker]:
    """Hold this process's lock while it works on the study. The system frees it however the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield Worker(socket.gethostname(), str(path))
        finally:
            path.unlink(missing_ok=True)


def claim_next(study: optuna.Study, storage: StudyStorage, config: SearchConfig, worker: Worker) -> Claimed | None:
    """The next trial within the budget, marked as this worker's; None when there is none."""
    with storage.claim():
        queue_killed(study, storage, config)
        trials = study.get_trials(deepcopy=False)
        begun = [trial for trial in trials if trial.state != TrialState.WAITING and CONTINUED not in trial.user_attrs]
        if len(begun) >= config.trials or (config.hours is not None and hours_spent(trials) >= config.hours):
            return None
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if config.sampler.kind == "grid" and not waiting and not _queue_grid_point(study, config, trials):
            return None
        study.sampler = sampler(config, len(trials))
        trial = study.ask()
        trial.set_user_attr(_WORKER, {"host": worker.host, "lock": worker.lock})
        trial.set_user_attr(_ALIVE, time.time())
        values = suggest(trial, config.space)
        trial.set_user_attr(VALUES, values)
        root = trial.user_attrs.get(ROOT, trial.number)
        trial.set_user_attr(ROOT, root)
        return Claimed(trial, values, root, trial.user_attrs.get(RUN_ID))


def _queue_grid_point(study: optuna.Study, config: SearchConfig, trials: list[FrozenTrial]) -> bool:
    tried = {trial.user_attrs.get(_GRID) for trial in trials}
    done = [trial.user_attrs.get(VALUES) for trial in trials]
    for point in grid(config.space):
        # By values and not by place: the grid may have been changed since.
        name = json.dumps(point)
        if name not in tried and point not in done:
            study.enqueue_trial(optuna_params(config.space, point), user_attrs={_GRID: name})
            return True
    return False


def queue_killed(study: optuna.Study, storage: StudyStorage, config: SearchConfig) -> None:
    """Mark the trials whose process is gone as failed and queue each again, under the lock of `claim_next`."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _is_alive(trial, storage, config):
            queue_again(study, trial, config)


def queue_again(study: optuna.Study, trial: FrozenTrial, config: SearchConfig, *, asked: bool = False) -> bool:
    """End a running trial as failed, and queue another attempt that goes on from its checkpoint.

    Args:
        study: whose lock is held.
        trial: its process is gone, or has given it up.
        config: says how often a trial may be killed.
        asked: it ended because it was asked to, which is no fault of its own.

    Returns:
        whether there is another attempt: after `config.retries` kills there is none.
    """
    root, attempt = trial.user_attrs.get(ROOT, trial.number), trial.user_attrs.get(ATTEMPT, 1)
    kills = trial.user_attrs.get(KILLS, 0) + (not asked)
    again = bool(kills <= config.retries)
    handle = Trial(study, trial._trial_id)
    if SECONDS not in trial.user_attrs:
        handle.set_user_attr(SECONDS, _seconds_of_killed(trial))
    if again:
        # Added first: one killed between the two steps finds the attempt that is there.
        successor = _attempt(study, root, attempt + 1)
        if successor is None:
            inherited = {name: trial.user_attrs[name] for name in _INHERITED if name in trial.user_attrs}
            study.add_trial(
                optuna.create_trial(
                    state=TrialState.WAITING,
                    params=trial.params,
                    distributions=trial.distributions,
                    intermediate_values=trial.intermediate_values,
                    # What is enqueued but not drawn yet.
                    system_attrs={k: v for k, v in trial.system_attrs.items() if k == "fixed_params"},
                    user_attrs={**inherited, ROOT: root, ATTEMPT: attempt + 1, KILLS: kills},
                )
            )
            successor = _attempt(study, root, attempt + 1)
        handle.set_user_attr(CONTINUED, successor)
        log.warning("trial %d was interrupted; trial %s goes on from its checkpoint", trial.number, successor)
    else:
        log.warning("trial %d was killed %d times; it counts as failed", trial.number, kills)
    study.tell(trial.number, state=TrialState.FAIL)
    return again


def _attempt(study: optuna.Study, root: int, attempt: int) -> int | None:
    for trial in reversed(study.get_trials(deepcopy=False)):
        if trial.user_attrs.get(ROOT) == root and trial.user_attrs.get(ATTEMPT) == attempt:
            return trial.number
    return None


def _is_alive(trial: FrozenTrial, storage: StudyStorage, config: SearchConfig) -> bool:
    worker: Mapping[str, str] | None = trial.user_attrs.get(_WORKER)
    if worker is None:
        return False  # it was named under the lock that is held now: its process died there
    if worker["host"] != socket.gethostname():
        last: float = trial.user_attrs.get(_ALIVE, 0.0)
        return time.time() - last < config.storage.silent_after_s
    lock = Path(worker["lock"])
    if not lock.exists():
        return False
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    lock.unlink(missing_ok=True)
    return False


def tell_alive(trial: Trial) -> None:
    """For processes on other machines."""
    trial.set_user_attr(_ALIVE, time.time())


def _seconds_of_killed(trial: FrozenTrial) -> float:
    """From its start to its last event: the time until somebody noticed is nobody's work."""
    folder, start = trial.user_attrs.get(FOLDER), trial.datetime_start
    log_file = Path(folder) / "events.jsonl" if folder else None
    if start is None or log_file is None or not log_file.is_file():
        return 0.0
    last: float = max((event["time"] for event in read_all(log_file)), default=0.0)
    return max(0.0, last - start.timestamp())


def hours_spent(trials: list[FrozenTrial]) -> float:
    """Of all attempts, in all processes."""
    seconds = 0.0
    for trial in trials:
        running = trial.state == TrialState.RUNNING and trial.datetime_start is not None
        now = time.time() - trial.datetime_start.timestamp() if running and trial.datetime_start else 0.0
        seconds += trial.user_attrs.get(SECONDS, now)
    return seconds / 3600


def last_error(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the last start of a training failed of, where it could still tell: a killed one could not."""
    found: dict[str, Any] | None = None
    for event in events:
        if event["kind"] == "start":
            found = None
        elif event["kind"] == "error":
            found = event
    return found
