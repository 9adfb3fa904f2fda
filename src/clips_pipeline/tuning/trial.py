"""One trial: a training by the run spec and the worker of `train`, followed by its event log."""

import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import Trial
from optuna_dashboard import save_note

from clips_pipeline.data.storage.files import Options
from clips_pipeline.training.events.event_log import Event, EventReader, read_all
from clips_pipeline.training.launch.exit_status import TrainingInterruptedError
from clips_pipeline.training.launch.launcher import TrainingFailedError, launch
from clips_pipeline.training.run_spec import RunSpec
from clips_pipeline.tuning import trial_queue
from clips_pipeline.tuning.config import Scalar, SearchConfig
from clips_pipeline.tuning.open_study import PARENT
from clips_pipeline.tuning.search_space import trial_parameters
from clips_pipeline.tuning.trial_queue import TrialAttempt, TrialKilledError

log = logging.getLogger(__name__)


class TrialRecord(Protocol):
    """Where a trial's numbers go; the caller brings it, so that this package knows no tracker."""

    @property
    def run_id(self) -> str | None:
        """Of the tracker, None where nothing is tracked."""

    @property
    def url(self) -> str | None:
        """Of the run's page."""

    def reader(self, events: Path) -> EventReader:
        """Of the events that have not been recorded."""

    def record(self, event: Event) -> None:
        """One event of the trial's training."""

    def finish(self, state: str) -> None:
        """How it ended: `complete`, `pruned`, `failed` or `interrupted`."""


@dataclass(frozen=True)
class TrialInfo:
    """What a record is opened by.

    Attributes:
        number: of the trial; another for every attempt.
        root: number of its first attempt, whose record goes on.
        run_id: of the tracker's run of that attempt, None where it is not known.
        values: by path.
        run_folder: of the training.
        study: its name.
        parent: the tracker's run of the search, None for the active one.
    """

    number: int
    first_attempt: int
    run_id: str | None
    values: dict[str, Scalar]
    run_folder: Path
    study: str
    parent: str | None


TrialRecordFactory = Callable[[TrialInfo], AbstractContextManager[TrialRecord]]


@dataclass(frozen=True)
class SearchContext:
    """What every trial of a search needs.

    Attributes:
        config: space, objectives and budget.
        train_parameters: the `train` parameters that trials change.
        spec_of: parameters and a folder for runs and model to a run spec.
        cost_of: a run spec to operations per sample and tokens of its fragments.
        record_trial: opens the record of one trial.
        folder: keeps `study.db` and the trials' run folders.
        storage_options: credentials for shards elsewhere, as in `launch`.
    """

    config: SearchConfig
    train_parameters: dict[str, Any]
    build_spec: Callable[[dict[str, Any], Path], RunSpec]
    estimate_cost: Callable[[RunSpec], tuple[float, float]]
    record_trial: TrialRecordFactory
    folder: Path
    storage_options: Options | None = None


def trials_folder(folder: Path, study_name: str) -> Path:
    """Where the run folders of a study's trials are, by number: another study counts from 0 too."""
    return folder / "trials" / re.sub(r"[^\w.-]", "_", study_name)


def run_trial(attempt: TrialAttempt, context: SearchContext) -> float | Sequence[float]:
    """Train it: the objective of the study.

    Returns:
        the score, and with `cost` the operations per sample.

    Raises:
        TrialPruned: the pruner has stopped it.
        TrialKilledError: a rank was killed.
        TrainingFailedError: it failed by itself.
        TrainingInterruptedError: this process was asked to end.
    """
    trial, config = attempt.trial, context.config
    began = time.monotonic()
    parameters = trial_parameters(config, context.train_parameters, attempt.values)
    spec = context.build_spec(
        parameters, trials_folder(context.folder, config.study_name) / f"{attempt.first_attempt:04d}"
    )
    trial.set_user_attr(trial_queue.FOLDER, spec.run_folder)
    flops, tokens = context.estimate_cost(spec)
    trial.set_user_attr(trial_queue.COST, flops)
    trial.set_user_attr("fragment_tokens", tokens)
    log.info("trial %d (%d wanted): %s", trial.number, config.trials, attempt.values)
    name = TrialInfo(
        trial.number,
        attempt.first_attempt,
        attempt.run_id,
        attempt.values,
        Path(spec.run_folder),
        config.study_name,
        trial.study.user_attrs.get(PARENT),
    )
    with context.record_trial(name) as record:
        trial.set_user_attr(trial_queue.RUN_ID, record.run_id)
        _save_note(trial, attempt, record, "running")
        try:
            finished = _train(trial, spec, record, context, began)
        except (TrainingFailedError, TrainingInterruptedError) as error:
            trial.set_user_attr(trial_queue.SECONDS, time.monotonic() - began)
            _report_failure(attempt, spec, record, config, error)
            raise
        # From the log and not from the outcome: an attempt that finds the training finished sees no evaluation.
        scores = [event["metrics"][config.metric] for event in read_all(spec.events) if event["kind"] == "evaluation"]
        score = float(scores[-1])
        trial.set_user_attr(trial_queue.SECONDS, time.monotonic() - began)
        state = "complete" if finished else "pruned"
        record.finish(state)
        _save_note(trial, attempt, record, f"{state}, {config.metric} {score:.4f}")
        log.info("trial %d: %s, %s %.4f", trial.number, state, config.metric, score)
    if not finished:
        raise optuna.TrialPruned
    return (score, flops) if config.cost else score


def _report_failure(
    attempt: TrialAttempt, spec: RunSpec, record: TrialRecord, config: SearchConfig, error: RuntimeError
) -> None:
    """Note how it failed.

    Raises:
        TrialKilledError: it was killed, and could not tell why itself.
    """
    trial, first = attempt.trial, str(error).splitlines()[0]
    interrupted = isinstance(error, TrainingInterruptedError)
    killed = interrupted or last_error(read_all(spec.events)) is None
    again = interrupted or (killed and attempt.retries < config.retries)
    record.finish("interrupted" if again else "failed")
    _save_note(trial, attempt, record, "killed, queued again" if again else f"failed: {error}")
    if not again:
        log.warning("trial %d failed: %s", trial.number, first)
        trial.set_user_attr("error", first)
    elif not interrupted:
        log.warning("trial %d was killed; its next attempt goes on from the checkpoint (%s)", trial.number, first)
    if killed and not interrupted:
        raise TrialKilledError(str(error)) from None


def last_error(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the last start of a training failed of, where it could still tell: a killed one could not."""
    last = next((event for event in reversed(events) if event["kind"] in ("start", "error")), None)
    return last if last is not None and last["kind"] == "error" else None


def _train(trial: Trial, spec: RunSpec, record: TrialRecord, context: SearchContext, began: float) -> bool:
    """Whether it came to its end; it does not where the pruner asked it to stop."""
    steps, every = spec.train.steps, spec.train.every.evaluate
    reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def on_event(event: Event) -> None:
        record.record(event)
        if event["kind"] != "evaluation":
            return
        trial.set_user_attr(trial_queue.SECONDS, time.monotonic() - began)
        if context.config.cost:
            return
        number = -(-event["step"] // every)
        if number not in reported:  # by an earlier attempt
            reported.add(number)
            trial.report(event["metrics"][context.config.metric], number)
        if event["step"] < steps and trial.should_prune():
            log.info("trial %d is pruned at step %d of %d", trial.number, event["step"], steps)
            # Every rank reads it at the same step.
            spec.stop_flag.touch()

    return launch(spec, on_event, record.reader(spec.events), context.storage_options).finished


def _save_note(trial: Trial, attempt: TrialAttempt, record: TrialRecord, state: str) -> None:
    """The dashboard shows it beside the trial."""
    values = "\n".join(f"- `{path}`: {value}" for path, value in attempt.values.items())
    before = "" if attempt.first_attempt == trial.number else f" It goes on with trial {attempt.first_attempt}."
    run = "No MLflow run." if record.run_id is None else f"[MLflow run {record.run_id}]({record.url})"
    cost = trial.user_attrs[trial_queue.COST] / 1e9
    body = f"**{state}**.{before}\n\n{run}\n\n{values}\n- {cost:.3f} GFLOP per training sample\n"
    save_note(trial, body)
