"""The study: a SQLite storage, a seeded sampler, trials through the same run spec and worker as `train`."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
import pandas as pd
from optuna.trial import TrialState

from clips_pipeline.config import ConfigError, from_mapping, to_mapping
from clips_pipeline.shards.storage import Options
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.events import Event
from clips_pipeline.training.launch import TrainingFailedError, launch
from clips_pipeline.training.spec import RunSpec
from clips_pipeline.tuning.config import Scalar, SearchConfig
from clips_pipeline.tuning.search_space import merged, nested, suggest

log = logging.getLogger(__name__)


class TrialRecord(Protocol):
    """Where a trial's numbers go; the caller brings it, so that this package knows no tracker."""

    run_id: str | None

    def record(self, event: Event) -> None:
        """One event of the trial's training."""


RecordTrial = Callable[[int, dict[str, Scalar], Path], AbstractContextManager[TrialRecord]]


@dataclass(frozen=True)
class SearchResult:
    """The best parameters as an environment's `train` group, its score, and all trials as a table."""

    best_parameters: dict[str, Any]
    best_value: float
    trials: pd.DataFrame


def search(
    config: SearchConfig,
    train_parameters: dict[str, Any],
    spec_of: Callable[[dict[str, Any], Path], RunSpec],
    folder: Path,
    record_trial: RecordTrial,
    storage_options: Options | None = None,
) -> SearchResult:
    """Run trials until the study has `config.trials` finished ones.

    Args:
        config: space and budget.
        train_parameters: the `train` parameters that trials change.
        spec_of: parameters and a folder for runs and model to a run spec.
        folder: keeps `study.db` and the trials' run folders.
        record_trial: opens the record of one trial (number, suggested values, run folder).
        storage_options: credentials for shards elsewhere, as in `launch`.

    Raises:
        ConfigError: a path of the space is no parameter; raised before the first trial.
        TrainingFailedError: every trial failed.
    """
    check_space(config, train_parameters)
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=config.study_name,
        storage=f"sqlite:///{folder / 'study.db'}",
        sampler=optuna.samplers.TPESampler(seed=config.seed),
        direction="maximize",
        load_if_exists=True,
    )
    study.set_metric_names([config.metric])
    if not study.trials:
        study.enqueue_trial(first_trial(config, train_parameters), user_attrs={"origin": "train parameters"})

    def objective(trial: optuna.Trial) -> float:
        values = suggest(trial, config.space)
        parameters = merged(train_parameters, values) | {"samples": config.samples}
        spec = spec_of(parameters, folder / "trials" / f"{trial.number:04d}")
        log.info("trial %d of %d: %s", trial.number + 1, config.trials, values)
        with record_trial(trial.number, values, Path(spec.run_folder)) as record:
            trial.set_user_attr("run_folder", spec.run_folder)
            trial.set_user_attr("mlflow_run_id", record.run_id)

            def on_event(event: Event) -> None:
                record.record(event)
                if event["kind"] == "evaluation":
                    trial.report(event["metrics"][config.metric], event["step"])

            outcome = launch(spec, on_event, storage_options=storage_options)
        score = outcome.metrics[config.metric]
        log.info("trial %d: %s %.4f", trial.number + 1, config.metric, score)
        return score

    done = len(study.get_trials(states=(TrialState.COMPLETE,)))
    if done < config.trials:
        study.optimize(objective, n_trials=config.trials - done, catch=(TrainingFailedError,))
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        raise TrainingFailedError(f"every trial failed; their logs are under {folder / 'trials'}")
    best = study.best_trial
    values = {path: best.params[path] for path in config.space}
    return SearchResult({"train": nested(values)}, study.best_value, study.trials_dataframe())


def first_trial(config: SearchConfig, train_parameters: dict[str, Any]) -> dict[str, Scalar]:
    """The training's own values, where they lie within the space: a search should beat what one has already.

    A value outside (a fragment length of null, say) is left to the sampler.
    """
    own = to_mapping(from_mapping(TrainConfig, train_parameters, where="train"))
    found: dict[str, Scalar] = {}
    for path, dimension in config.space.items():
        value: Any = own
        for part in path.split("."):
            value = value[part]
        if dimension.kind == "categorical":
            inside = value in dimension.choices
        else:
            inside = isinstance(value, int | float) and (dimension.low or 0) <= value <= (dimension.high or 0)
        if inside:
            found[path] = value
    return found


def check_space(config: SearchConfig, train_parameters: dict[str, Any]) -> None:
    """Every path must be a parameter of `train`, and an example of every dimension must make a valid training.

    Trials are started one after the other, so they cannot be left to somebody else.

    Raises:
        ConfigError: names the path.
    """
    if not from_mapping(TrainConfig, train_parameters, where="train").launch.start:
        raise ConfigError("train.launch.start is false, and a search starts its trials itself; set it to true")
    for path, dimension in config.space.items():
        examples = dimension.choices if dimension.kind == "categorical" else (dimension.low, dimension.high)
        for example in examples:
            value = int(example) if dimension.kind == "int" and example is not None else example
            try:
                from_mapping(TrainConfig, merged(train_parameters, {path: value}), where="train")
            except ConfigError as error:
                raise ConfigError(f"search.space.{path}: {error}") from None
