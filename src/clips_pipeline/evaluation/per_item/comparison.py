"""Paired comparison of two models on the same items.

Paired bootstrap: items are drawn with replacement, the same for both models, and each metric is recomputed on every resample. The
captions of an image stay together, since they are not independent. The confidence interval consists of the central quantiles of
the differences.
Sign test: on how many of the items on which the models differ one model is better, against a fair coin (two-sided, exact), by the
metric of each item alone.

Shapes: N items, R resamples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from clips_pipeline.config import ConfigError, FormerName
from clips_pipeline.evaluation.metric_keys import higher_is_better, set_of
from clips_pipeline.evaluation.per_item.bootstrap import Array, RatioMetric, bootstrap
from clips_pipeline.evaluation.per_item.items import ItemResults

RESAMPLES = 10_000
CONFIDENCE = 0.95
INCOMPARABLE = (
    "the two evaluations used different settings (class names or templates, training samples of a probe, or reference "
    "captions); evaluate both models with the same settings"
)


@dataclass(frozen=True)
class Difference:
    """One metric of two models, A and B.

    Attributes:
        metric: key of the metric.
        a, b: value of each model.
        low, high: confidence interval of B minus A.
        fraction_better: fraction of the resamples in which B is better than A by more than the margin.
        wins, losses: number of items on which B is better than A, and worse.
        sign_p: p-value of the sign test.
    """

    metric: str
    a: float
    b: float
    low: float
    high: float
    fraction_better: Annotated[float, FormerName("share_better")]
    wins: int
    losses: int
    sign_p: float

    @property
    def difference(self) -> float:
        """Difference B minus A."""
        return self.b - self.a

    @property
    def verdict(self) -> str:
        """Verdict on B: `better`, `worse`, or `even` if the interval contains 0."""
        if self.low <= 0 <= self.high:
            return "even"
        return "better" if (self.difference > 0) == higher_is_better(self.metric) else "worse"


def compare(
    a: ItemResults,
    b: ItemResults,
    metrics: Sequence[str],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    margin: float = 0.0,
    seed: int = 0,
) -> list[Difference]:
    """Compare B with A on the same items: images, or pairs of Winoground.

    Args:
        a: per-item results of model A.
        b: per-item results of model B, in any order of the items.
        metrics: keys, such as `retrieval/scenes/mean_recall@1`.
        confidence: confidence level of the intervals, above 0 and below 1.
        resamples: number of resamples; 10,000 leave the ends of an interval uncertain by a few percent of its width.
        margin: margin of `fraction_better`, in the unit of the metric.
        seed: random seed.

    Raises:
        ConfigError: the items or set versions differ, or a metric is missing or was computed with different settings.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigError(f"confidence {confidence}, resamples {resamples}: must be between 0 and 1, and at least 1")
    order_N = match_items(a, b)
    for metric in metrics:
        if not a.is_comparable(b, metric):
            raise ConfigError(f"{metric}: {INCOMPARABLE}")
    all_a = [a.metric_of(metric) for metric in metrics]
    all_b = [b.metric_of(metric).reordered(order_N) for metric in metrics]
    drawn = bootstrap([*all_a, *all_b], len(a.keys), resamples, seed)
    return [
        _difference(metric, of_a, of_b, drawn[place], drawn[len(all_a) + place], confidence, margin)
        for place, (metric, of_a, of_b) in enumerate(zip(metrics, all_a, all_b, strict=True))
    ]


@dataclass(frozen=True)
class Measured:
    """One metric of one model beside others on the same items.

    Attributes:
        value: value over all items.
        low, high: confidence interval of the value.
        difference: paired difference from the first model; None for the first one.
    """

    value: float
    low: float
    high: float
    difference: Difference | None


def compare_all(
    models: Sequence[ItemResults],
    metrics: Sequence[str],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[list[Measured]]:
    """Compute values and intervals of several models and their differences from the first, by one bootstrap.

    Args:
        models: per-item results on the same items, in any order of the items.
        metrics: keys of the metrics.
        confidence: confidence level of the intervals.
        resamples: number of resamples.
        seed: random seed.

    Returns:
        For each model its metrics; the same numbers as `intervals` and `compare` give.

    Raises:
        ConfigError: the items or set versions differ, or a metric is missing or was computed with different settings.
    """
    first = models[0]
    table: list[list[RatioMetric]] = []
    for model in models:
        order_N = match_items(first, model)
        for metric in metrics:
            if not first.is_comparable(model, metric):
                raise ConfigError(f"{metric}: {INCOMPARABLE}")
        table.append([model.metric_of(metric).reordered(order_N) for metric in metrics])
    drawn = bootstrap([one for of_model in table for one in of_model], len(first.keys), resamples, seed)
    found: list[list[Measured]] = []
    for place, of_model in enumerate(table):
        own = drawn[place * len(metrics) :]
        measured = []
        for number, (metric, ours) in enumerate(zip(metrics, of_model, strict=True)):
            difference = (
                None
                if place == 0
                else _difference(metric, table[0][number], ours, drawn[number], own[number], confidence, 0.0)
            )
            measured.append(Measured(ours.value(), *_interval(own[number], confidence), difference))
        found.append(measured)
    return found


def _difference(
    metric: str,
    of_a: RatioMetric,
    of_b: RatioMetric,
    value_a_R: Array,
    value_b_R: Array,
    confidence: float,
    margin: float,
) -> Difference:
    """Return the difference of a metric from its values over all items and in every resample."""
    difference_R = value_b_R - value_a_R
    sign = 1.0 if higher_is_better(metric) else -1.0
    # By the metric of each item alone; items that are not queries count for neither model.
    better_N = sign * (of_b.per_item() - of_a.per_item())
    wins, losses = int(np.count_nonzero(better_N > 0)), int(np.count_nonzero(better_N < 0))
    fraction_better, sign_p = float(np.mean(sign * difference_R > margin)), sign_test(wins, losses)
    interval = _interval(difference_R, confidence)
    return Difference(metric, of_a.value(), of_b.value(), *interval, fraction_better, wins, losses, sign_p)


def intervals(
    items: Mapping[str, ItemResults],
    metrics: Iterable[str],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Compute confidence intervals of one model's metrics by the bootstrap over the items of each set.

    Args:
        items: per-item results by set.
        metrics: keys; metrics without per-item results have no interval.
        confidence: confidence level of the intervals.
        resamples: number of resamples.
        seed: random seed.
    """
    metrics = list(metrics)
    found: dict[str, tuple[float, float]] = {}
    # One bootstrap for all metrics of a set.
    for name, of_set in items.items():
        held = [metric for metric in metrics if set_of(metric) == name and of_set.has_metric(metric)]
        if not held:
            continue
        drawn = bootstrap([of_set.metric_of(metric) for metric in held], len(of_set.keys), resamples, seed)
        found |= {metric: _interval(value_R, confidence) for metric, value_R in zip(held, drawn, strict=True)}
    return found


def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of a sign test; 1 without wins and losses."""
    # Imported here because the import is slow and this module is imported with the gate.
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def match_items(a: ItemResults, b: ItemResults) -> npt.NDArray[np.int64]:
    """Return the position in B of each item of A, (N,).

    Raises:
        ConfigError: the items or the set versions differ.
    """
    if a.set_version != b.set_version:
        raise ConfigError(
            f"the two models were evaluated on different data (set versions {a.set_version or 'unknown'} and "
            f"{b.set_version or 'unknown'}); evaluate both on the same set"
        )
    places = {key: place for place, key in enumerate(b.keys)}
    missing = [key for key in a.keys if key not in places]
    if missing or len(a.keys) != len(b.keys):
        raise ConfigError(
            f"the two models were evaluated on different items ({len(a.keys)} and {len(b.keys)}; {len(missing)} of the first are "
            "missing in the second); evaluate both on the same set"
        )
    return np.array([places[key] for key in a.keys], np.int64)


def _interval(value_R: Array, confidence: float) -> tuple[float, float]:
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(value_R, [tail, 100 - tail])
    return float(low), float(high)
