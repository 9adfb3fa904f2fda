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
from clips_pipeline.tuning.trial_queue import ClaimedTrial, TrialKilledError

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
class TrialName:
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
    root: int
    run_id: str | None
    values: dict[str, Scalar]
    run_folder: Path
    study: str
    parent: str | None


RecordTrial = Callable[[TrialName], AbstractContextManager[TrialRecord]]


@dataclass(frozen=True)
class Bench:
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
    spec_of: Callable[[dict[str, Any], Path], RunSpec]
    cost_of: Callable[[RunSpec], tuple[float, float]]
    record_trial: RecordTrial
    folder: Path
    storage_options: Options | None = None


def trials_folder(folder: Path, study_name: str) -> Path:
    """Where the run folders of a study's trials are, by number: another study counts from 0 too."""
    return folder / "trials" / re.sub(r"[^\w.-]", "_", study_name)


def run_trial(claimed: ClaimedTrial, bench: Bench) -> float | Sequence[float]:
    """Train it: the objective of the study.

    Returns:
        the score, and with `cost` the operations per sample.

    Raises:
        TrialPruned: the pruner has stopped it.
        TrialKilledError: a rank was killed.
        TrainingFailedError: it failed by itself.
        TrainingInterruptedError: this process was asked to end.
    """
    trial, config = claimed.trial, bench.config
    began = time.monotonic()
    parameters = trial_parameters(config, bench.train_parameters, claimed.values)
    spec = bench.spec_of(parameters, trials_folder(bench.folder, config.study_name) / f"{claimed.root:04d}")
    trial.set_user_attr(trial_queue.FOLDER, spec.run_folder)
    flops, tokens = bench.cost_of(spec)
    trial.set_user_attr(trial_queue.COST, flops)
    trial.set_user_attr("fragment_tokens", tokens)
    log.info("trial %d (%d wanted): %s", trial.number, config.trials, claimed.values)
    name = TrialName(
        trial.number,
        claimed.root,
        claimed.run_id,
        claimed.values,
        Path(spec.run_folder),
        config.study_name,
        trial.study.user_attrs.get(PARENT),
    )
    with bench.record_trial(name) as record:
        trial.set_user_attr(trial_queue.RUN_ID, record.run_id)
        _note(trial, claimed, record, "running")
        try:
            finished = _train(trial, spec, record, bench, began)
        except (TrainingFailedError, TrainingInterruptedError) as error:
            trial.set_user_attr(trial_queue.SECONDS, time.monotonic() - began)
            _tell_failure(claimed, spec, record, config, error)
            raise
        # From the log and not from the outcome: an attempt that finds the training finished sees no evaluation.
        scores = [event["metrics"][config.metric] for event in read_all(spec.events) if event["kind"] == "evaluation"]
        score = float(scores[-1])
        trial.set_user_attr(trial_queue.SECONDS, time.monotonic() - began)
        state = "complete" if finished else "pruned"
        record.finish(state)
        _note(trial, claimed, record, f"{state}, {config.metric} {score:.4f}")
        log.info("trial %d: %s, %s %.4f", trial.number, state, config.metric, score)
    if not finished:
        raise optuna.TrialPruned
    return (score, flops) if config.cost else score


def _tell_failure(
    claimed: ClaimedTrial, spec: RunSpec, record: TrialRecord, config: SearchConfig, error: RuntimeError
) -> None:
    """Note how it failed.

    Raises:
        TrialKilledError: it was killed, and could not tell why itself.
    """
    trial, first = claimed.trial, str(error).splitlines()[0]
    interrupted = isinstance(error, TrainingInterruptedError)
    killed = interrupted or last_error(read_all(spec.events)) is None
    again = interrupted or (killed and claimed.attempts < config.retries)
    record.finish("interrupted" if again else "failed")
    _note(trial, claimed, record, "killed, queued again" if again else f"failed: {error}")
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


def _train(trial: Trial, spec: RunSpec, record: TrialRecord, bench: Bench, began: float) -> bool:
    """Whether it came to its end; it does not where the pruner asked it to stop."""
    steps, every = spec.train.steps, spec.train.every.evaluate
    reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def on_event(event: Event) -> None:
        record.record(event)
        if event["kind"] != "evaluation":
            return
        trial.set_user_attr(trial_queue.SECONDS, time.monotonic() - began)
        if bench.config.cost:
            return
        number = -(-event["step"] // every)
        if number not in reported:  # by an earlier attempt
            reported.add(number)
            trial.report(event["metrics"][bench.config.metric], number)
        if event["step"] < steps and trial.should_prune():
            log.info("trial %d is pruned at step %d of %d", trial.number, event["step"], steps)
            # Every rank reads it at the same step.
            spec.stop_flag.touch()

    return launch(spec, on_event, record.reader(spec.events), bench.storage_options).finished


def _note(trial: Trial, claimed: ClaimedTrial, record: TrialRecord, state: str) -> None:
    """The dashboard shows it beside the trial."""
    values = "\n".join(f"- `{path}`: {value}" for path, value in claimed.values.items())
    before = "" if claimed.root == trial.number else f" It goes on with trial {claimed.root}."
    run = "No MLflow run." if record.run_id is None else f"[MLflow run {record.run_id}]({record.url})"
    cost = trial.user_attrs[trial_queue.COST] / 1e9
    body = f"**{state}**.{before}\n\n{run}\n\n{values}\n- {cost:.3f} GFLOP per training sample\n"
    save_note(trial, body)
