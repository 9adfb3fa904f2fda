"""One trial: train as the `train` pipeline does, report scores to Optuna, and prune."""

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

from clips_pipeline.data.storage.files import StorageOptions
from clips_pipeline.training.events.event_log import Event, EventReader, read_all
from clips_pipeline.training.events.progress import Progress
from clips_pipeline.training.launch.launcher import TrainingFailedError, launch
from clips_pipeline.training.launch.result import TrainingInterruptedError
from clips_pipeline.training.run_spec import RunSpec
from clips_pipeline.tuning import trial_queue
from clips_pipeline.tuning.config import SearchConfig, Value
from clips_pipeline.tuning.open_study import PARENT
from clips_pipeline.tuning.search_space import trial_parameters
from clips_pipeline.tuning.trial_queue import TrialAttempt, TrialKilledError

log = logging.getLogger(__name__)


class TrialRecord(Protocol):
    """Interface of a trial's record in a tracker; the caller passes it, so this package depends on no tracker."""

    @property
    def run_id(self) -> str | None:
        """Id of the tracker's run; None where nothing is tracked."""

    @property
    def url(self) -> str | None:
        """URL of the run's page."""

    def reader(self, events: Path) -> EventReader:
        """Return a reader of the events that have not been recorded."""

    def record(self, event: Event) -> None:
        """Record one event of the trial's training."""

    def finish(self, state: str) -> None:
        """Record the final state: `complete`, `pruned`, `failed` or `interrupted`."""


@dataclass(frozen=True)
class TrialInfo:
    """What identifies the record of a trial.

    Attributes:
        number: number of this attempt in the study.
        first_attempt: number of the trial's first attempt; all attempts share its record.
        run_id: id of that attempt's run in the tracker; None where it is not known.
        values: parameter values by path.
        run_folder: run folder of the training.
        study: name of the Optuna study.
        parent: id of the search's run in the tracker; None for the active run.
    """

    number: int
    first_attempt: int
    run_id: str | None
    values: dict[str, Value]
    run_folder: Path
    study: str
    parent: str | None


TrialRecordFactory = Callable[[TrialInfo], AbstractContextManager[TrialRecord]]


@dataclass(frozen=True)
class SearchContext:
    """What every trial of a search needs.

    Attributes:
        config: search space, objectives and budget.
        train_parameters: the `train` parameters that trials change.
        build_spec: builds a run spec from parameters and a folder for run and model.
        estimate_cost: computes FLOPs per sample and mean fragment tokens from a run spec.
        record_trial: opens the record of one trial.
        folder: contains the study's files and the trials' run folders.
        storage_options: credentials for remote shards, as in `launch`.
    """

    config: SearchConfig
    train_parameters: dict[str, Any]
    build_spec: Callable[[dict[str, Any], Path], RunSpec]
    estimate_cost: Callable[[RunSpec], tuple[float, float]]
    record_trial: TrialRecordFactory
    folder: Path
    storage_options: StorageOptions | None = None


def trials_folder(folder: Path, study_name: str) -> Path:
    """Return the folder of a study's run folders. It contains the study's name, because every study counts trials from 0."""
    return folder / "trials" / re.sub(r"[^\w.-]", "_", study_name)


def run_trial(attempt: TrialAttempt, context: SearchContext) -> float | Sequence[float]:
    """Run one trial; the study's objective function.

    Returns:
        the score, and with `cost` also the FLOPs per sample.

    Raises:
        TrialPruned: the pruner stopped the trial.
        TrialKilledError: a rank was killed.
        TrainingFailedError: the training failed with an error.
        TrainingInterruptedError: this process was interrupted.
    """
    trial, config = attempt.trial, context.config
    started = time.monotonic()
    parameters = trial_parameters(config, context.train_parameters, attempt.values)
    spec = context.build_spec(
        parameters, trials_folder(context.folder, config.study_name) / f"{attempt.first_attempt:04d}"
    )
    trial.set_user_attr(trial_queue.FOLDER, spec.run_folder)
    flops, tokens = context.estimate_cost(spec)
    trial.set_user_attr(trial_queue.COST, flops)
    trial.set_user_attr("fragment_tokens", tokens)
    log.info("trial %d of %d: %s", trial.number, config.trials, attempt.values)
    info = TrialInfo(
        trial.number,
        attempt.first_attempt,
        attempt.run_id,
        attempt.values,
        Path(spec.run_folder),
        config.study_name,
        trial.study.user_attrs.get(PARENT),
    )
    with context.record_trial(info) as record:
        trial.set_user_attr(trial_queue.RUN_ID, record.run_id)
        _save_note(trial, attempt, record, "running")
        try:
            finished = _train(trial, spec, record, context, started)
        except (TrainingFailedError, TrainingInterruptedError) as error:
            trial.set_user_attr(trial_queue.SECONDS, time.monotonic() - started)
            _report_failure(attempt, spec, record, config, error)
            raise
        # Read from the event log: an attempt that finds the training finished evaluates nothing.
        scores = [event["metrics"][config.metric] for event in read_all(spec.events) if event["kind"] == "evaluation"]
        score = float(scores[-1])
        trial.set_user_attr(trial_queue.SECONDS, time.monotonic() - started)
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
    """Record the failure.

    Raises:
        TrialKilledError: the training was killed and wrote no error event.
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
        log.warning("trial %d was killed; its next attempt resumes from the last checkpoint (%s)", trial.number, first)
    if killed and not interrupted:
        raise TrialKilledError(str(error)) from None


def last_error(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the error event of the training's last start; None where that start wrote none, because it was killed."""
    last = next((event for event in reversed(events) if event["kind"] in ("start", "error")), None)
    return last if last is not None and last["kind"] == "error" else None


def _train(trial: Trial, spec: RunSpec, record: TrialRecord, context: SearchContext, started: float) -> bool:
    """Return whether the training finished; it did not where the pruner stopped it."""
    steps, every = spec.train.steps, spec.train.every.evaluate
    reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def on_event(event: Event) -> None:
        progress.count(event)
        record.record(event)
        if event["kind"] != "evaluation":
            return
        trial.set_user_attr(trial_queue.SECONDS, time.monotonic() - started)
        if context.config.cost:
            return
        number = -(-event["step"] // every)
        if number not in reported:  # reported by an earlier attempt
            reported.add(number)
            trial.report(event["metrics"][context.config.metric], number)
        if event["step"] < steps and trial.should_prune():
            log.info("trial %d is pruned at step %d of %d", trial.number, event["step"], steps)
            # All ranks check the flag at the same step.
            spec.stop_flag.touch()

    with Progress(steps, f"trial {trial.number}") as progress:
        return launch(spec, on_event, record.reader(spec.events), context.storage_options).finished


def _save_note(trial: Trial, attempt: TrialAttempt, record: TrialRecord, state: str) -> None:
    """Write the note that the dashboard shows beside the trial."""
    values = "\n".join(f"- `{path}`: {value}" for path, value in attempt.values.items())
    before = "" if attempt.first_attempt == trial.number else f" It continues trial {attempt.first_attempt}."
    run = "No MLflow run." if record.run_id is None else f"[MLflow run {record.run_id}]({record.url})"
    cost = trial.user_attrs[trial_queue.COST] / 1e9
    body = f"**{state}**.{before}\n\n{run}\n\n{values}\n- {cost:.3f} GFLOP per training sample\n"
    save_note(trial, body)
