"""Metrics of a model with confidence intervals, chance level and comparison with the champion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clips_pipeline.evaluation.metric_keys import higher_is_better, is_fraction, set_of
from clips_pipeline.evaluation.per_item.comparison import Difference, compare, intervals
from clips_pipeline.evaluation.per_item.items import ItemResults
from clips_pipeline.evaluation.results import QUESTION_COLUMN, ItemRow

_RESAMPLES = 2_000
_HEADLINES = 3
_KIND_NAMES = {"retrieval_long": "long captions", "zero_shot": "zero-shot", "compositionality": "composition"}


@dataclass(frozen=True)
class MetricScore:
    """One metric of a model.

    Attributes:
        metric: key of the metric.
        value: value of the model.
        interval: confidence interval of the value; None without per-item results.
        chance: chance level; None if unknown.
        difference: comparison with the champion (A is the champion); None without a comparison.
        champion_interval: confidence interval of the champion's value.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None = None
    chance: float | None = None
    difference: Difference | None = None
    champion_interval: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """Verdict of the comparison; empty without one."""
        return "" if self.difference is None else self.difference.verdict

    @property
    def name(self) -> str:
        """Readable name, as `readable_name`."""
        return readable_name(self.metric)

    @property
    def is_fraction(self) -> bool:
        """Whether the metric is in [0, 1], as `metric_keys.is_fraction`."""
        return is_fraction(self.metric)

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value is better, as `metric_keys.higher_is_better`."""
        return higher_is_better(self.metric)


def score_metrics(
    metrics: Mapping[str, float],
    chance: Mapping[str, float],
    items: Mapping[str, ItemResults],
    champion: Mapping[str, ItemResults] | None = None,
    *,
    resamples: int = _RESAMPLES,
) -> list[MetricScore]:
    """Compute confidence intervals and the comparison with the champion for every metric.

    Args:
        metrics: values by key, as in `metrics.json`.
        chance: chance levels by the same keys.
        items: per-item results of the model, by set.
        champion: per-item results of the champion, by set, if there are any.
        resamples: number of resamples.

    Raises:
        ConfigError: the two models were evaluated on different images.
    """
    others = champion or {}
    differences: dict[str, Difference] = {}
    for name in items.keys() & others.keys():
        a, b = others[name], items[name]
        both = [
            one
            for one in metrics
            if set_of(one) == name and a.has_metric(one) and b.has_metric(one) and a.is_comparable(b, one)
        ]
        if both:
            compared = compare(a, b, both, resamples=resamples)
            differences |= {one.metric: one for one in compared}

    own = intervals(items, metrics, resamples=resamples)
    theirs = intervals(others, differences, resamples=resamples)
    return [
        MetricScore(name, value, own.get(name), chance.get(name), differences.get(name), theirs.get(name))
        for name, value in metrics.items()
    ]


@dataclass(frozen=True)
class SubsetScore:
    """Accuracy on one subset of the compositional questions: its name, its number of questions, and the score."""

    subset: str
    questions: int
    score: MetricScore


def subset_scores(found: Sequence[MetricScore], per_item: Sequence[ItemRow]) -> list[SubsetScore]:
    """Select the metrics of the compositional questions, with the numbers of questions; the mean is the last one.

    Args:
        found: scores of all metrics.
        per_item: one row per image.
    """
    columns = {name for row in per_item for name in row if name.startswith(QUESTION_COLUMN)}
    chosen = []
    for one in found:
        if not one.metric.startswith("compositionality/"):
            continue
        subset = one.metric.rpartition("/")[2].removesuffix("_accuracy")
        asked = columns if subset == "mean" else {QUESTION_COLUMN + subset}
        count = sum(len(row.get(name) or ()) for row in per_item for name in asked)
        chosen.append(SubsetScore(subset.replace("_", " "), count, one))
    return sorted(chosen, key=lambda one: one.subset == "mean")


def select_headlines(found: Sequence[MetricScore], first: str) -> list[MetricScore]:
    """Select the headline metrics: the deciding metric `first`, then the most common of the others."""
    order = sorted(found, key=lambda one: (one.metric != first, _place(one.metric)))
    return [one for one in order if one.metric == first or _place(one.metric) < _HEADLINES][:_HEADLINES]


def readable_name(metric: str) -> str:
    """Return a readable name of a metric, unique and short enough for a figure."""
    kind, _, rest = metric.partition("/")
    part, _, end = rest.rpartition("/")
    of_part = f" {part.replace('_', ' ')}" if kind == "sugarcrepe" else ""
    what = _KIND_NAMES.get(kind, kind)
    name = end.replace("_", " ").replace("@", " at ")
    if kind == "retrieval_long":
        name = name.replace("image recall", "image").replace("text recall", "text")
    return f"{what}{of_part}: {name}".replace("caption: loss", "caption loss, nats per token")


def interval_text(interval: tuple[float, float] | None) -> str:
    """Format an interval as `0.1234 to 0.2345`; empty for None."""
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _place(metric: str) -> int:
    # Match kind and end of the key: the mean recall of long captions is not a headline.
    chosen = (("retrieval", "/mean_recall@1"), ("zero_shot", "/accuracy@1"), ("caption", "loss"))
    kind = metric.split("/")[0]
    return next(
        (place for place, (wanted, end) in enumerate(chosen) if kind == wanted and metric.endswith(end)), len(chosen)
    )
