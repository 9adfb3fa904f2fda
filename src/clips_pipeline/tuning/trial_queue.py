"""The queue of trials: start the next one within the budget, and retry those of killed processes.

Heartbeat and retry are Optuna's. All steps here run under the storage's lock. Without it, processes that share a study
would exceed the budget, because Optuna checks it only after a trial, and two of them could draw the same point.
"""

import enum
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from clips_pipeline.training.launch.result import TrainingFailedError, TrainingInterruptedError
from clips_pipeline.tuning.config import SearchConfig, Value
from clips_pipeline.tuning.open_study import sampler
from clips_pipeline.tuning.search_space import grid_points, optuna_params, suggest
from clips_pipeline.tuning.storage import StudyStorage, ignore_experimental_warnings

log = logging.getLogger(__name__)

# User attributes of a trial; the dashboard and the table of trials show them. A retried trial inherits them.
VALUES = "values"
SECONDS = "seconds"
FOLDER = "run_folder"
RUN_ID = "mlflow_run_id"
COST = "flops_per_sample"
_STARTED_AS = "claimed_as"
_WAIT_SECONDS = 2.0


class TrialKilledError(TrainingFailedError):
    """A rank of the trial's training was killed or hung; another attempt may succeed."""


class NextStep(enum.Enum):
    """What a process of a search does next."""

    START = "start"
    WAIT = "wait"
    """All trials of the budget have started, but one of another process may still have to be retried."""
    END = "end"


@dataclass(frozen=True)
class TrialAttempt:
    """An attempt at a trial, to be run by this process.

    Attributes:
        trial: Optuna's trial.
        values: parameter values by path.
        first_attempt: number of the trial's first attempt, which names its run folder.
        retries: number of earlier attempts that were killed.
        run_id: id of an earlier attempt's run in the tracker.
    """

    trial: Trial
    values: dict[str, Value]
    first_attempt: int
    retries: int
    run_id: str | None


TrainFunction = Callable[[TrialAttempt], float | Sequence[float]]


def first_attempt_of(trial: FrozenTrial) -> int:
    """Return the number of the trial's first attempt, as `RetryHeartbeatStaleTrialCallback` stores it."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


def next_attempts(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Map the number of each retried trial to the number of its next attempt."""
    last: dict[int, int] = {}
    following = {}
    for trial in trials:
        first_attempt = first_attempt_of(trial)
        if first_attempt in last:
            following[last[first_attempt]] = trial.number
        last[first_attempt] = trial.number
    return following


def run_next_trial(study: optuna.Study, storage: StudyStorage, config: SearchConfig, train: TrainFunction) -> bool:
    """Run the next trial within the budget, or wait briefly for those of other processes.

    Args:
        study: the Optuna study.
        storage: its storage.
        config: gives the budget and the sampler.
        train: runs a trial and returns its score, or its scores.

    Returns:
        False when the search is done.

    Raises:
        TrainingInterruptedError: this process was interrupted; the trial is queued again.
    """
    with ExitStack() as lock:
        lock.enter_context(storage.lock())
        step = plan_next_step(study, storage, config)
        if step is NextStep.START:
            # `_optimize_one` releases the lock as soon as the trial has its values.
            _optimize_one(study, storage, config, train, lock)
    if step is NextStep.WAIT:
        time.sleep(_WAIT_SECONDS)
    return step is not NextStep.END


def _optimize_one(
    study: optuna.Study, storage: StudyStorage, config: SearchConfig, train: TrainFunction, lock: ExitStack
) -> None:
    study.sampler = sampler(config, len(study.get_trials(deepcopy=False)))
    number = 0
    error = cast("BaseException | None", None)

    def objective(trial: Trial) -> float | Sequence[float]:
        nonlocal number, error
        number = trial.number
        attempt = start_attempt(trial, study, storage, config)
        lock.close()
        try:
            return train(attempt)
        except optuna.TrialPruned:
            raise
        except (Exception, KeyboardInterrupt) as caught:
            error = caught
            # Hold the lock until the next attempt is queued; else another process could find the search done.
            lock.enter_context(storage.lock())
            raise

    try:
        study.optimize(objective, n_trials=1, catch=(TrainingFailedError,))
    except ValueError:
        if not isinstance(error, optuna.exceptions.UpdateFinishedTrialError):
            raise
        log.warning("trial %d: its heartbeat was too old, so another process has taken it over", number)
        return
    finally:
        if isinstance(error, TrainingInterruptedError | KeyboardInterrupt):
            requeue(study, study.trials[number])
        elif _is_retryable(error):
            storage.retry(study, study.trials[number])


def _is_retryable(error: BaseException | None) -> bool:
    """Return whether another attempt may succeed; a training that failed with an error would fail again."""
    failed = isinstance(error, TrainingFailedError) and not isinstance(error, TrialKilledError)
    return error is not None and not failed and not isinstance(error, optuna.exceptions.UpdateFinishedTrialError)


def plan_next_step(study: optuna.Study, storage: StudyStorage, config: SearchConfig) -> NextStep:
    """Retry killed trials, check the budget, and queue the next point of a grid. The caller must hold the storage's lock."""
    _retry_killed(study, storage)
    trials = study.get_trials(deepcopy=False)
    if config.hours is not None and hours_spent(trials) >= config.hours:
        return NextStep.END
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    started = {first_attempt_of(trial) for trial in trials if trial.state != TrialState.WAITING}
    if any(first_attempt_of(trial) in started for trial in waiting):
        return NextStep.START
    if len(started) < config.trials and (
        config.sampler.kind != "grid" or waiting or _enqueue_grid_point(study, config)
    ):
        return NextStep.START
    running = any(trial.state == TrialState.RUNNING for trial in trials)
    return NextStep.WAIT if running and storage.has_heartbeat else NextStep.END


def _retry_killed(study: optuna.Study, storage: StudyStorage) -> None:
    with ignore_experimental_warnings():
        before = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        optuna.storages.fail_stale_trials(study)
    running = {trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
    for trial in before:
        if trial.number not in running:
            log.warning("trial %d: its process has stopped writing heartbeats", trial.number)
        elif trial.user_attrs.get(_STARTED_AS) != trial.number:
            # Trials start under the lock, which this process holds now: the other one died there, before its first heartbeat.
            study.tell(trial.number, state=TrialState.FAIL)
            storage.retry(study, study.trials[trial.number])


def _enqueue_grid_point(study: optuna.Study, config: SearchConfig) -> bool:
    """Queue the next grid point and return whether one was left.

    Optuna's `GridSampler` would repeat points where null is one of a range's values.
    """
    count = len(study.get_trials(deepcopy=False))
    for point in grid_points(config.space):
        study.enqueue_trial(optuna_params(config.space, point), skip_if_exists=True)
        if len(study.get_trials(deepcopy=False)) > count:
            return True
    return False


def start_attempt(trial: Trial, study: optuna.Study, storage: StudyStorage, config: SearchConfig) -> TrialAttempt:
    """Draw the values of a trial and mark it as started. The caller must hold the storage's lock."""
    values = suggest(trial, config.space)
    frozen = study.get_trials(deepcopy=False)[trial.number]
    trial.set_user_attr(VALUES, values)
    trial.set_user_attr(SECONDS, 0.0)
    storage.record_heartbeat(trial)
    trial.set_user_attr(_STARTED_AS, trial.number)
    retries = len(frozen.system_attrs.get("retry_history", ()))
    return TrialAttempt(trial, values, first_attempt_of(frozen), retries, frozen.user_attrs.get(RUN_ID))


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue an interrupted trial again. Unlike a retry it does not count towards the limit."""
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=trial.user_attrs,
            system_attrs={"failed_trial": trial.number, **trial.system_attrs},
            intermediate_values=trial.intermediate_values,
        )
    )


def hours_spent(trials: Sequence[FrozenTrial]) -> float:
    """Return the training hours of all attempts in all processes.

    A killed attempt counts up to its last evaluation, not up to when its death was detected.
    """
    seconds = 0.0
    for trial in trials:
        if trial.state == TrialState.RUNNING and trial.datetime_start is not None:
            seconds += time.time() - trial.datetime_start.timestamp()
        elif trial.state != TrialState.WAITING:
            seconds += trial.user_attrs.get(SECONDS, 0.0)
    return seconds / 3600
