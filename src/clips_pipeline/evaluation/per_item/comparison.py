"""Two models on the same images: by how much one is better, and how sure that is.

Paired bootstrap: images are drawn with replacement, the same for both models, and each metric is computed anew for every
draw. The captions of an image stay together, since they are not independent. The interval holds the middle of those differences.
Sign test: of the images on which the models differ, how many speak for one, against a fair coin (two-sided, exact). An image
speaks by the metric of itself alone.
Legend of suffixes: N images, R resamples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from clips_pipeline.config import ConfigError, FormerName
from clips_pipeline.evaluation.metric_keys import higher_is_better, set_of
from clips_pipeline.evaluation.per_item.bootstrap import Array, bootstrap
from clips_pipeline.evaluation.per_item.items import ItemResults

RESAMPLES = 10_000
CONFIDENCE = 0.95
INCOMPARABLE = (
    "the two were not asked alike (other class names or prompts, other samples of a probe, or captions scored by other "
    "references); evaluate both with the same settings"
)


@dataclass(frozen=True)
class Difference:
    """One metric of two models, A and B.

    Attributes:
        metric: its key.
        a, b: the metric of each.
        low, high: the interval of B minus A.
        fraction_better: of the resamples, those in which B is better than A by more than the margin.
        wins, losses: images on which B is better than A, and worse.
        sign_p: the chance of such a division or a more uneven one, were the models alike.
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
        """B minus A."""
        return self.b - self.a

    @property
    def verdict(self) -> str:
        """Of B: `better`, `worse` or `even`, where chance could explain the difference."""
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
    """Compare B with A on the same images, or pairs of Winoground.

    Args:
        a: results of one model.
        b: of the other one, in any order of the images.
        metrics: keys, such as `retrieval/scenes/mean_recall@1`.
        confidence: of the intervals, above 0 and below 1.
        resamples: draws; 10,000 leave the ends of an interval uncertain by a few hundredths of its width.
        margin: for `fraction_better`, in the metric's own unit.
        seed: of the draws.

    Raises:
        ConfigError: other images, another version of the set, or a metric that the items do not hold or were asked for on other
            terms.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigError(f"confidence {confidence}, resamples {resamples}: between 0 and 1, and 1 or more")
    order_N = match_items(a, b)
    for metric in metrics:
        if not a.is_comparable(b, metric):
            raise ConfigError(f"{metric}: {INCOMPARABLE}")
    all_a = [a.metric_of(metric) for metric in metrics]
    all_b = [b.metric_of(metric).reordered(order_N) for metric in metrics]
    drawn = bootstrap([*all_a, *all_b], len(a.keys), resamples, seed)
    found = []
    for place, (metric, of_a, of_b) in enumerate(zip(metrics, all_a, all_b, strict=True)):
        difference_R = drawn[len(all_a) + place] - drawn[place]
        sign = 1.0 if higher_is_better(metric) else -1.0
        # By the metric of each image itself; those asked nothing count for neither.
        better_N = sign * (of_b.per_image() - of_a.per_image())
        wins, losses = int(np.count_nonzero(better_N > 0)), int(np.count_nonzero(better_N < 0))
        fraction_better, sign_p = float(np.mean(sign * difference_R > margin)), sign_test(wins, losses)
        interval = _interval(difference_R, confidence)
        found.append(Difference(metric, of_a.value(), of_b.value(), *interval, fraction_better, wins, losses, sign_p))
    return found


def intervals(
    items: Mapping[str, ItemResults],
    metrics: Iterable[str],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Of one model's metrics, by the bootstrap over the items of each set.

    Args:
        items: by set.
        metrics: keys; those that no items hold have no interval.
        confidence: of the intervals.
        resamples: draws.
        seed: of the draws.
    """
    metrics = list(metrics)
    found: dict[str, tuple[float, float]] = {}
    # One pass of draws for all metrics of a set.
    for name, of_set in items.items():
        held = [metric for metric in metrics if set_of(metric) == name and of_set.has_metric(metric)]
        if not held:
            continue
        drawn = bootstrap([of_set.metric_of(metric) for metric in held], len(of_set.keys), resamples, seed)
        found |= {metric: _interval(value_R, confidence) for metric, value_R in zip(held, drawn, strict=True)}
    return found


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p of a fair coin, exact; 1 where there is nothing to count."""
    # Here, because it takes a moment, and this module is loaded with the gate. The sum of the binomial distribution.
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def match_items(a: ItemResults, b: ItemResults) -> npt.NDArray[np.int64]:
    """(N,) where each image of A stands in B.

    Raises:
        ConfigError: other images, or another version of the set.
    """
    if a.set_version != b.set_version:
        raise ConfigError(
            f"the two were evaluated on different data (set versions {a.set_version or 'unknown'} and "
            f"{b.set_version or 'unknown'}); evaluate both on the same set"
        )
    places = {key: place for place, key in enumerate(b.keys)}
    missing = [key for key in a.keys if key not in places]
    if missing or len(a.keys) != len(b.keys):
        raise ConfigError(
            f"the two were evaluated on different images: {len(a.keys)} and {len(b.keys)}, {len(missing)} of the first are not "
            "among the second; evaluate both on the same set"
        )
    return np.array([places[key] for key in a.keys], np.int64)


def _interval(value_R: Array, confidence: float) -> tuple[float, float]:
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(value_R, [tail, 100 - tail])
    return float(low), float(high)
