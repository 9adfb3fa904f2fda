"""Figures of a search: Optuna's own, and score against fragment length."""

from typing import Any

import optuna
import pandas as pd
import plotly.express as px
from optuna import visualization
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from clips_pipeline.tuning.config import SearchConfig
from clips_pipeline.tuning.trial_queue import COST

_GFLOP = "GFLOP per training sample"
_STRATEGY = "captions.fragment.strategy"
_MIN_TRIALS = 2
FIGURES = ("history", "importances", "slices", "parallel_coordinates", "pareto_front", "fragment_length")


def figures(study: optuna.Study, table: pd.DataFrame, config: SearchConfig) -> dict[str, Any]:
    """Return the `plotly.graph_objects.Figure`s by name. With too few finished trials their title says so.

    Args:
        study: the Optuna study.
        table: table of its trials, from `search.trials_table`.
        config: configuration of the search.
    """
    finished = table[table["state"] == "complete"]
    if len(finished) < _MIN_TRIALS:
        empty = px.scatter(title=f"needs at least {_MIN_TRIALS} finished trials")
        return dict.fromkeys(FIGURES, empty)
    of_score: dict[str, Any] = {"target": _score, "target_name": config.metric}
    plots = (
        visualization.plot_optimization_history(study, **of_score),
        _importances(study),
        visualization.plot_slice(study, **of_score),
        visualization.plot_parallel_coordinate(study, **of_score),
        visualization.plot_pareto_front(with_cost_objective(study), target_names=[config.metric, _GFLOP]),
        _fragment_length(finished, config),
    )
    return dict(zip(FIGURES, plots, strict=True))


def _score(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _importances(study: optuna.Study) -> Any:
    found = importances(study)
    table = pd.DataFrame({"importance": list(found.values()), "parameter": list(found)})
    title = "Importances (PED-ANOVA)" if found else "Importances: no parameter has taken two values"
    return px.bar(table, x="importance", y="parameter", orientation="h", title=title)


def importances(study: optuna.Study) -> dict[str, float]:
    """Return Optuna's parameter importances (PED-ANOVA), largest first, with sum 1; empty where no parameter varied.

    With two objectives it is the importance for being on the Pareto front.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = dict.fromkeys(name for trial in finished for name in trial.params)
    varied = [name for name in names if len({trial.params.get(name) for trial in finished}) > 1]
    if not varied or len({_score(trial) for trial in finished}) < _MIN_TRIALS:
        return {}
    return dict(optuna.importance.get_param_importances(study, params=varied))


def with_cost_objective(study: optuna.Study) -> optuna.Study:
    """Return an in-memory copy of the study with two objectives, score and GFLOP, so that `best_trials` is the Pareto front."""
    both = optuna.create_study(directions=[study.directions[0], StudyDirection.MINIMIZE])
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.COMPLETE:
            values = [_score(trial), trial.user_attrs[COST] / 1e9]
            copied = optuna.create_trial(values=values, params=trial.params, distributions=trial.distributions)
        else:  # keeps the numbers of the other trials
            copied = optuna.create_trial(state=TrialState.FAIL)
        both.add_trial(copied)
    return both


def pareto_front(study: optuna.Study) -> list[int]:
    """Return the numbers of the trials on the Pareto front of score and cost, cheapest first."""
    return [trial.number for trial in sorted(with_cost_objective(study).best_trials, key=lambda trial: trial.values[1])]


def _fragment_length(finished: pd.DataFrame, config: SearchConfig) -> Any:
    return px.scatter(
        finished.assign(**{_STRATEGY: finished[_STRATEGY].astype(str)}) if _STRATEGY in config.space else finished,
        x="fragment_tokens",
        y=config.metric,
        color=_STRATEGY if _STRATEGY in config.space else None,
        hover_data=["trial", "gflop_per_sample"],
        labels={"fragment_tokens": "mean tokens of a fragment's row", "gflop_per_sample": _GFLOP},
        title="Score against fragment length",
    )
