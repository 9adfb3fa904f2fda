"""Hyperparameter search: open the Optuna study, run trials within the budget, return the results."""

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from clips_pipeline.config import ConfigError
from clips_pipeline.progress import Stage
from clips_pipeline.text.methods import CONTRASTIVE_METHODS
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.launch.result import TrainingFailedError
from clips_pipeline.tuning import trial_queue
from clips_pipeline.tuning.config import SearchConfig
from clips_pipeline.tuning.figures import figures, importances, pareto_front
from clips_pipeline.tuning.open_study import PARENT, open_study
from clips_pipeline.tuning.search_space import check_space, merge, trial_parameters
from clips_pipeline.tuning.storage import open_storage, silence_optuna
from clips_pipeline.tuning.trial import SearchContext, run_trial, trials_folder

log = logging.getLogger(__name__)

HELD_OUT_METRICS = (
    "mean_recall@1",
    *(f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)),
)
CAPTION_METRICS = ("caption_loss",)
"""Held-out metrics of a method without a text tower."""


@dataclass(frozen=True)
class SearchResult:
    """Results of a search.

    Attributes:
        best_parameters: the best values, as the `train` group of an environment.
        best_value: score of the best trial.
        best_trial: number of the best trial.
        trials: table of all trials.
        figures: plotly figures by name.
        front: numbers of the trials on the Pareto front of score and cost.
        importances: relative importance of each parameter, by Optuna's name.
        parent: id of the search's run in the tracker.
    """

    best_parameters: dict[str, Any]
    best_value: float
    best_trial: int
    trials: pd.DataFrame
    figures: dict[str, Any]
    front: list[int]
    importances: dict[str, float]
    parent: str | None


def search(
    context: SearchContext,
    *,
    credentials: Mapping[str, Any] | None = None,
    parent_run_id: str | None = None,
    on_parent: Callable[[str | None], None] = lambda run_id: None,
) -> SearchResult:
    """Run trials until the budget is used. Calling it again resumes an interrupted search.

    Args:
        context: what the trials need.
        credentials: credentials of the storage.
        parent_run_id: id of the active run of the tracker. A study that already has a parent run keeps it.
        on_parent: called with the id of the parent run before the first trial.

    Raises:
        ConfigError: see `check_search`, `open_storage` and `open_study`; raised before the first trial.
        TrainingFailedError: no trial has finished.
        TrainingInterruptedError: as `launch`; the trial is queued again.
    """
    config, train_parameters, folder = context.config, context.train_parameters, context.folder
    check_search(config, train_parameters)
    folder.mkdir(parents=True, exist_ok=True)
    silence_optuna()
    with closing(open_storage(config, folder, credentials or {})) as storage:
        own = context.build_spec(trial_parameters(config, train_parameters, {}), folder / "first")
        study = open_study(config, storage, own, train_parameters, parent_run_id)
        parent = study.user_attrs.get(PARENT)
        on_parent(parent)
        with Stage("search", config.trials, "trials", done=_count_ended(study)) as stage:
            while trial_queue.run_next_trial(study, storage, config, partial(run_trial, context=context)):
                stage.update(_count_ended(study))
        best = best_trial(study, config)
        if best is None:
            raise TrainingFailedError(
                f"search: no trial has finished; read the logs of the failed ones in {trials_folder(folder, config.study_name)}"
            )
        values = best.user_attrs[trial_queue.VALUES]
        table = trials_table(study, config)
        return SearchResult(
            {"train": merge({}, values)},
            best.values[0],
            best.number,
            table,
            figures(study, table, config),
            pareto_front(study),
            importances(study),
            parent,
        )


def _count_ended(study: optuna.Study) -> int:
    """Return how many trials of the budget have ended; an attempt that was killed and continued is none."""
    trials = study.get_trials(deepcopy=False)
    continued = trial_queue.next_attempts(trials)
    return sum(trial.state.is_finished() and trial.number not in continued for trial in trials)


def check_search(config: SearchConfig, train_parameters: Mapping[str, Any]) -> None:
    """Check the configuration as far as possible without data or storage.

    Raises:
        ConfigError: as `check_space`, or an unknown metric.
    """
    method_space = config.space.get("method")
    own = (train_parameters.get("method", TrainConfig.method),)
    for method in own if method_space is None else method_space.choices:
        known = HELD_OUT_METRICS if method in CONTRASTIVE_METHODS else CAPTION_METRICS
        where = "" if method in CONTRASTIVE_METHODS else f" for train.method {method}"
        if config.metric not in known:
            raise ConfigError(f"search.metric: {config.metric!r} is unknown{where}; choose one of {', '.join(known)}")
    if config.metric.endswith("loss") and config.direction == "maximize":
        raise ConfigError(f"search.direction: maximize, but a lower {config.metric} is better; set minimize")
    check_space(config, train_parameters)


def best_trial(study: optuna.Study, config: SearchConfig) -> FrozenTrial | None:
    """Return the finished trial with the best score; on a tie the cheapest one, then the first one.

    With two objectives it is the trial of the Pareto front with the best score.
    """
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    sign = -1.0 if config.direction == "maximize" else 1.0
    return min(finished, key=lambda t: (sign * t.values[0], t.user_attrs[trial_queue.COST], t.number), default=None)


def trials_table(study: optuna.Study, config: SearchConfig) -> pd.DataFrame:
    """Return a table with one row per attempt: state, score, cost, values by path, MLflow run, seconds."""
    rows = []
    trials = study.get_trials(deepcopy=False)
    continued = trial_queue.next_attempts(trials)
    for trial in trials:
        attrs = trial.user_attrs
        state = "killed" if trial.number in continued else trial.state.name.lower()
        last = trial.intermediate_values.get(max(trial.intermediate_values, default=0))
        rows.append(
            {
                "trial": trial.number,
                "state": state,
                config.metric: trial.values[0] if trial.values else last,
                "gflop_per_sample": attrs[trial_queue.COST] / 1e9 if trial_queue.COST in attrs else None,
                "fragment_tokens": attrs.get("fragment_tokens"),
                **{path: attrs.get(trial_queue.VALUES, {}).get(path) for path in config.space},
                "first_attempt": trial_queue.first_attempt_of(trial),
                "continued_as": continued.get(trial.number),
                "seconds": attrs.get(trial_queue.SECONDS),
                "mlflow_run_id": attrs.get(trial_queue.RUN_ID),
                "error": attrs.get("error"),
            }
        )
    table = pd.DataFrame(rows)
    for path in config.space:
        # pandas would convert integers to floats in a column with nulls.
        table[path] = pd.Series([row[path] for row in rows], dtype=object)
    return table
