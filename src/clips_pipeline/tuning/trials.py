"""One trial: a training by the run spec and the worker of `train`, followed by its event log."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import Trial, TrialState
from optuna_dashboard import save_note

from clips_pipeline.shards.storage import Options
from clips_pipeline.training.events import Event, EventReader, read_all
from clips_pipeline.training.launch import TrainingFailedError, launch
from clips_pipeline.training.outcome import TrainingInterruptedError
from clips_pipeline.training.spec import RunSpec
from clips_pipeline.tuning import claims
from clips_pipeline.tuning.config import Scalar, SearchConfig
from clips_pipeline.tuning.search_space import trial_parameters
from clips_pipeline.tuning.storage import StudyStorage

log = logging.getLogger(__name__)

_SIGN_SECONDS = 30.0


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
        study, config: of the search.
        train_parameters: the `train` parameters that trials change.
        spec_of: parameters and a folder for runs and model to a run spec.
        cost_of: a run spec to operations per sample and tokens of its fragments.
        record_trial: opens the record of one trial.
        folder: of the search.
        parent: the tracker's run of the search.
        storage: of the study.
        storage_options: credentials for shards elsewhere.
    """

    study: optuna.Study
    config: SearchConfig
    train_parameters: dict[str, Any]
    spec_of: Callable[[dict[str, Any], Path], RunSpec]
    cost_of: Callable[[RunSpec], tuple[float, float]]
    record_trial: RecordTrial
    folder: Path
    parent: str | None
    storage: StudyStorage
    storage_options: Options | None


def trials_folder(folder: Path, study_name: str) -> Path:
    """Where the run folders of a study's trials are, by number: another study counts from 0 too."""
    return folder / "trials" / re.sub(r"[^\w.-]", "_", study_name)


def run_trial(claimed: claims.Claimed, bench: Bench) -> None:
    """Train it and tell the study how it ended.

    A killed training is queued again; one that failed by itself is not, since it would fail again.

    Raises:
        TrainingInterruptedError: this process was asked to end; the trial is queued again.
    """
    trial, config = claimed.trial, bench.config
    began = time.monotonic()
    parameters = trial_parameters(config, bench.train_parameters, claimed.values)
    spec = bench.spec_of(parameters, trials_folder(bench.folder, config.study_name) / f"{claimed.root:04d}")
    trial.set_user_attr(claims.FOLDER, spec.run_folder)
    flops, tokens = bench.cost_of(spec)
    trial.set_user_attr(claims.COST, flops)
    trial.set_user_attr("fragment_tokens", tokens)
    log.info("trial %d (%d wanted): %s", trial.number, config.trials, claimed.values)
    name = TrialName(
        trial.number,
        claimed.root,
        claimed.run_id,
        claimed.values,
        Path(spec.run_folder),
        config.study_name,
        bench.parent,
    )
    with bench.record_trial(name) as record, _signs_of_life(trial, bench.storage.across_machines):
        trial.set_user_attr(claims.RUN_ID, record.run_id)
        _note(trial, claimed, record, "running")
        try:
            finished = _train(trial, spec, record, bench)
        except (TrainingFailedError, TrainingInterruptedError) as error:
            trial.set_user_attr(claims.SECONDS, time.monotonic() - began)
            asked = isinstance(error, TrainingInterruptedError)
            killed = asked or claims.last_error(read_all(spec.events)) is None
            again = False
            if killed:
                with bench.storage.claim():
                    frozen = next(t for t in bench.study.get_trials(deepcopy=False) if t.number == trial.number)
                    again = claims.queue_again(bench.study, frozen, config, asked=asked)
            if not killed:
                log.warning("trial %d failed: %s", trial.number, str(error).splitlines()[0])
                trial.set_user_attr("error", str(error).splitlines()[0])
                bench.study.tell(trial, state=TrialState.FAIL)
            record.finish("interrupted" if again else "failed")
            _note(trial, claimed, record, "killed, queued again" if again else f"failed: {error}")
            if asked:
                raise
            return
        score = _last_score(spec, config.metric)
        trial.set_user_attr(claims.SECONDS, time.monotonic() - began)
        if not finished:
            bench.study.tell(trial, state=TrialState.PRUNED)
            state = "pruned"
        else:
            bench.study.tell(trial, [score, flops] if config.cost else score)
            state = "complete"
        record.finish(state)
        _note(trial, claimed, record, f"{state}, {config.metric} {score:.4f}")
        log.info("trial %d: %s, %s %.4f", trial.number, state, config.metric, score)


def _train(trial: Trial, spec: RunSpec, record: TrialRecord, bench: Bench) -> bool:
    """Whether it came to its end; it does not where the pruner asked it to stop."""
    steps, every = spec.train.steps, spec.train.every.evaluate
    reported = set(bench.study._storage.get_trial(trial._trial_id).intermediate_values)

    def on_event(event: Event) -> None:
        record.record(event)
        if event["kind"] != "evaluation" or bench.config.cost:
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


def _last_score(spec: RunSpec, metric: str) -> float:
    # From the log and not from the outcome: an attempt that finds the training finished sees no evaluation.
    found = [event["metrics"][metric] for event in read_all(spec.events) if event["kind"] == "evaluation"]
    return float(found[-1])


def _note(trial: Trial, claimed: claims.Claimed, record: TrialRecord, state: str) -> None:
    """The dashboard shows it beside the trial."""
    values = "\n".join(f"- `{path}`: {value}" for path, value in claimed.values.items())
    before = "" if claimed.root == trial.number else f" It goes on with trial {claimed.root}."
    run = "No MLflow run." if record.run_id is None else f"[MLflow run {record.run_id}]({record.url})"
    cost = trial.user_attrs[claims.COST] / 1e9
    body = f"**{state}**.{before}\n\n{run}\n\n{values}\n- {cost:.3f} GFLOP per training sample\n"
    save_note(trial, body)


@contextmanager
def _signs_of_life(trial: Trial, wanted: bool) -> Iterator[None]:
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(_SIGN_SECONDS):
            try:
                claims.tell_alive(trial)
            except Exception as error:  # a storage that is away for a moment must not end the training
                log.warning("trial %d: its storage does not answer (%s)", trial.number, error)

    thread = threading.Thread(target=tell, daemon=True, name="trial-life") if wanted else None
    if thread is not None:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread is not None:
            thread.join()
