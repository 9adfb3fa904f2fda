"""The promotion gate: a pure function of two models' results that decides whether the new one becomes champion.

It does if it improves the deciding metric by more than `minimum_win` in at least `confidence` of all bootstrap
resamples, and if no other metric falls by more than its floor allows.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from clips_pipeline.config import ConfigError, digest_mapping
from clips_pipeline.evaluation.metric_keys import higher_is_better, item_name
from clips_pipeline.evaluation.per_item.comparison import INCOMPARABLE, Difference, compare
from clips_pipeline.evaluation.per_item.items import ItemResults
from clips_pipeline.registry.config import GateConfig as GateConfig


@dataclass(frozen=True)
class ModelResults:
    """Stored results of a model.

    Attributes:
        metrics: flat metrics, as in `metrics.json`.
        items: per-item results on the deciding metric's set; None where there are none.
    """

    metrics: Mapping[str, float]
    items: ItemResults | None = None


@dataclass(frozen=True)
class Decision:
    """Result of the gate.

    Attributes:
        promote: whether the new model gets the alias.
        reason: the reason as a sentence, for the registry.
        difference: the comparison on the deciding metric (A the champion, B the new model), where one was made.
    """

    promote: bool
    reason: str
    difference: Difference | None = None

    @property
    def difference_json(self) -> str:
        """The comparison as JSON, for a tag of the version."""
        return json.dumps({} if self.difference is None else digest_mapping(self.difference))


def check_metrics(metric: str, gate: GateConfig, metrics: Mapping[str, float]) -> None:
    """Check that the gate can decide with these metrics.

    Raises:
        ConfigError: the deciding metric, or one with a floor, was not measured or is not a finite number.
    """
    for key, name in (("register.metric", metric), *(("register.gate.floors", name) for name in gate.floors)):
        if name not in metrics:
            raise ConfigError(f"{key}: {name!r} was not measured; choose one of {', '.join(sorted(metrics))}")
        if not math.isfinite(metrics[name]):
            raise ConfigError(f"{key}: {name!r} is {metrics[name]}, not a finite number; evaluate the model again")


def decide(metric: str, gate: GateConfig, candidate: ModelResults, champion: ModelResults | None) -> Decision:
    """Compare two models.

    Args:
        metric: key of the deciding metric.
        gate: the conditions.
        candidate: the new model.
        champion: the current champion; None where there is none.

    Raises:
        ConfigError: as `check_metrics`.
    """
    check_metrics(metric, gate, candidate.metrics)
    value = candidate.metrics[metric]
    if champion is None:
        return Decision(True, f"first champion: {metric} = {value:.4f}")
    for name in (metric, *gate.floors):
        if name not in champion.metrics:
            # Models evaluated on different sets cannot be compared; a user has to decide.
            return _not_comparable(f"the champion has no metric {name}")
    champion_value = champion.metrics[metric]
    comparison = f"{metric} = {value:.4f}, the champion's is {champion_value:.4f}"
    if not _improvement(metric, value, champion_value) > gate.minimum_win:
        required = f"; an improvement of more than {gate.minimum_win:g} is required" if gate.minimum_win else ""
        return Decision(False, f"not better: {comparison}{required}")
    difference = None
    if gate.confidence is not None:
        if candidate.items is None or champion.items is None:
            missing_side = "new model" if candidate.items is None else "champion"
            return _not_comparable(
                f"no per-item results of the {missing_side} on this set are in MLflow; evaluate it again"
            )
        try:
            difference = compare(
                champion.items,
                candidate.items,
                [metric],
                confidence=gate.confidence,
                resamples=gate.resamples,
                margin=gate.minimum_win,
            )[0]
        except ConfigError as error:
            return _not_comparable(str(error))
        comparison += (
            f" (difference {difference.difference:+.4f}, {gate.confidence:.0%} interval {difference.low:+.4f} to "
            f"{difference.high:+.4f}; better in {difference.fraction_better:.1%} of resamplings, {difference.wins} "
            f"{item_name(metric)} won and {difference.losses} lost)"
        )
        if difference.fraction_better < gate.confidence:
            return Decision(False, f"not surely better: {comparison}", difference)
    for name, allowed in gate.floors.items():
        if candidate.items and champion.items and not candidate.items.is_comparable(champion.items, name):
            return _not_comparable(f"{name}: {INCOMPARABLE}")
        fall = -_improvement(name, candidate.metrics[name], champion.metrics[name])
        if fall > allowed:
            floor = f"{name} = {candidate.metrics[name]:.4f} is worse than {champion.metrics[name]:.4f} by {fall:.4f}"
            return Decision(False, f"below a floor: {floor}, {allowed:g} is allowed; {comparison}", difference)
    return Decision(True, f"better: {comparison}", difference)


def _improvement(metric: str, value: float, champion_value: float) -> float:
    return value - champion_value if higher_is_better(metric) else champion_value - value


def _not_comparable(why: str) -> Decision:
    return Decision(False, f"not comparable: {why}; or set the alias by hand with `kedro champion set`")
