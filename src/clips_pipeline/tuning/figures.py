"""The figures of a search, from its table of trials."""

import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from clips_pipeline.tuning.charts import Chart, Panel, Series
from clips_pipeline.tuning.config import Dimension, Scalar, SearchConfig

_GFLOP = "GFLOP per training sample"
_TOKENS = "mean tokens of a fragment's row"
_FEWEST = 2
FIGURES = ("history", "importances", "slices", "parallel_coordinates", "pareto_front", "fragment_length")


def figures(table: pd.DataFrame, config: SearchConfig) -> dict[str, Chart]:
    """By name; one that needs more finished trials says so in its title.

    Args:
        table: as `study.trials_table` makes it.
        config: of the search.
    """
    done = table[table["state"] == "complete"]
    if len(done) < _FEWEST:
        return {name: Chart(f"{name}: at least {_FEWEST} finished trials are needed", []) for name in FIGURES}
    makers = (_history, _importances, _slices, _parallel, _pareto, _length)
    return {name: make(done, config) for name, make in zip(FIGURES, makers, strict=True)}


def _history(done: pd.DataFrame, config: SearchConfig) -> Chart:
    trials, scores = list(done["trial"]), list(done[config.metric])
    best = done[config.metric].cummax() if config.direction == "maximize" else done[config.metric].cummin()
    each = Series("trial", trials, scores, _hover(done, config))
    so_far = Series("best so far", trials, list(best), [f"{value:.4f}" for value in best], "line")
    return Chart("Score by trial", [Panel("trial", config.metric, [each, so_far])])


def _importances(done: pd.DataFrame, config: SearchConfig) -> Chart:
    found = importances(done, config)
    if not found:
        return Chart("Importances: no parameter has taken two values", [])
    bars = Series("importance", list(found), list(found.values()), [f"{value:.2f}" for value in found.values()], "bar")
    title = f"Share of the score's variance by parameter (fANOVA, {len(done)} trials)"
    return Chart(title, [Panel("parameter", "share of variance", [bars])])


def importances(done: pd.DataFrame, config: SearchConfig) -> dict[str, float]:
    """Shares of the score's variance by path, largest first; empty where nothing varied.

    A range that may be null is cut into null and the thirds of the values seen: as a number null has no place.
    """
    varied = {path: dim for path, dim in config.space.items() if done[path].astype(str).nunique() > 1}
    if not varied or done[config.metric].nunique() < _FEWEST:
        return {}
    encoded = {path: _encoded(list(done[path]), dimension) for path, dimension in varied.items()}
    study = optuna.create_study(direction=config.direction)
    for row, score in enumerate(done[config.metric]):
        params = {path: values[row] for path, (values, _) in encoded.items()}
        distributions = {path: distribution for path, (_, distribution) in encoded.items()}
        study.add_trial(
            optuna.create_trial(
                state=TrialState.COMPLETE, value=float(score), params=params, distributions=distributions
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=config.seed)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _encoded(values: list[Scalar], dimension: Dimension) -> tuple[list[Scalar], optuna.distributions.BaseDistribution]:
    if dimension.kind == "categorical":
        return values, CategoricalDistribution(tuple(dict.fromkeys((*dimension.choices, *values))))
    numbers = [float(value) for value in values if value is not None and not pd.isna(value)]
    if dimension.or_null:
        first, second = pd.Series(numbers or [0.0]).quantile([1 / 3, 2 / 3])
        names: list[Scalar] = [
            "null" if value is None or pd.isna(value) else _third(float(value), first, second) for value in values
        ]
        return names, CategoricalDistribution(("null", "low", "middle", "high"))
    low, high = min(numbers), max(numbers)
    if dimension.kind == "int":
        return [int(value) for value in numbers], IntDistribution(int(low), int(high), log=dimension.log)
    return list(numbers), FloatDistribution(low, high, log=dimension.log)


def _third(value: float, first: float, second: float) -> str:
    return "low" if value <= first else "middle" if value <= second else "high"


def _slices(done: pd.DataFrame, config: SearchConfig) -> Chart:
    panels = []
    for path, dimension in config.space.items():
        categorical = dimension.kind == "categorical" or dimension.or_null
        order = done.sort_values(path, key=lambda column: column.map(_place)) if categorical else done
        values = [_shown(value) for value in order[path]] if categorical else [float(v) for v in order[path]]
        points = Series("trial", values, list(order[config.metric]), _hover(order, config))
        panels.append(Panel(path, config.metric, [points], log_x=dimension.log and not categorical))
    return Chart("Score by parameter", panels)


def _parallel(done: pd.DataFrame, config: SearchConfig) -> Chart:
    axes = {path: _heights([_shown(value) for value in done[path]], list(done[path])) for path in config.space}
    names = [_axis(path, sorted(done[path], key=_place)) for path in config.space]
    names.append(_axis(config.metric, sorted(done[config.metric])))
    scores = done[config.metric]
    spread = (scores.max() - scores.min()) or 1.0
    shades = (scores - scores.min()) / spread
    shades = shades if config.direction == "maximize" else 1 - shades
    lines = []
    for row, (hover, shade) in enumerate(zip(_hover(done, config), shades, strict=True)):
        heights = [axes[path][row] for path in config.space]
        heights.append(float((scores.iloc[row] - scores.min()) / spread))
        lines.append(Series(f"trial {done['trial'].iloc[row]}", names, heights, [hover] * len(names), "line", shade))
    panel = Panel("", "place within what was tried (0 to 1)", lines)
    return Chart("Trials across parameters, the best in orange", [panel], wide=True)


def _pareto(done: pd.DataFrame, config: SearchConfig) -> Chart:
    front = pareto_front(done, config)
    all_of = Series("trial", list(done["gflop_per_sample"]), list(done[config.metric]), _hover(done, config))
    on_it = Series(
        "Pareto front", list(front["gflop_per_sample"]), list(front[config.metric]), _hover(front, config), "line"
    )
    return Chart("Score against cost", [Panel(_GFLOP, config.metric, [all_of, on_it])])


def pareto_front(done: pd.DataFrame, config: SearchConfig) -> pd.DataFrame:
    """Finished trials that no other beats in score and cost at once, the cheapest first."""
    sign = 1.0 if config.direction == "maximize" else -1.0
    ordered = done.assign(goodness=sign * done[config.metric]).sort_values(
        ["gflop_per_sample", "goodness"], ascending=[True, False]
    )
    before = ordered["goodness"].cummax().shift(fill_value=float("-inf"))
    return ordered[ordered["goodness"] > before].drop(columns="goodness")


def _length(done: pd.DataFrame, config: SearchConfig) -> Chart:
    strategy = "captions.fragment.strategy"
    groups = done.groupby(strategy) if strategy in config.space else [("trial", done)]
    series = []
    for name, group in groups:
        ordered = group.sort_values("fragment_tokens")
        points = list(ordered["fragment_tokens"]), list(ordered[config.metric])
        series.append(Series(str(name), *points, _hover(ordered, config)))
    return Chart("Score against fragment length", [Panel(_TOKENS, config.metric, series)])


def _axis(name: str, ordered: list[Scalar]) -> str:
    """With what stands at its foot and at its head."""
    return f"{name.split('.')[-1]}\n{_short(ordered[0])} to\n{_short(ordered[-1])}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) and not pd.isna(value) else _shown(value)


def _hover(rows: pd.DataFrame, config: SearchConfig) -> list[str]:
    found = []
    for _, row in rows.iterrows():
        values = "<br>".join(f"{path}: {_shown(row[path])}" for path in config.space)
        found.append(
            f"trial {row['trial']}: {config.metric} {row[config.metric]:.4f}<br>"
            f"{row['gflop_per_sample']:.3f} {_GFLOP}<br>{values}"
        )
    return found


def _shown(value: object) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "null"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _place(value: object) -> tuple[int, float, str]:
    """Null first, numbers by size, then texts."""
    if _shown(value) == "null":
        return (0, 0.0, "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (1, float(value), "")
    return (2, 0.0, str(value))


def _heights(names: list[str], values: list[Scalar]) -> list[float]:
    distinct = sorted(set(values), key=_place) if None in values or any(isinstance(v, str) for v in values) else None
    if distinct is None:
        numbers = [float(value) for value in values if value is not None]
        low, high = min(numbers), max(numbers)
        return [(value - low) / ((high - low) or 1.0) for value in numbers]
    order = {_shown(value): index for index, value in enumerate(distinct)}
    return [order[name] / max(1, len(order) - 1) for name in names]
