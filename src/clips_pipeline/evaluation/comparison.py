"""Two models on the same images: by how much one is better, and how sure that is.

Paired bootstrap: images are drawn with replacement, the same for both models, and each metric is computed anew for every
draw. The captions of an image stay together, since they are not independent. The interval holds the middle of those differences.
Sign test: of the images on which the models differ, how many speak for one, against a fair coin (two-sided, exact).
Legend of suffixes: N images, R resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.items import Array, Items, Ratio, higher_is_better

RESAMPLES = 10_000
CONFIDENCE = 0.95

_COUNTS_AT_A_TIME = 4_000_000


@dataclass(frozen=True)
class Difference:
    """One metric of two models, A and B.

    Attributes:
        metric: its key.
        a, b: the metric of each.
        low, high: the interval of B minus A.
        share_better: of the resamples, those in which B is better than A by more than the margin.
        wins, losses: images on which B is better than A, and worse.
        sign_p: the chance of such a division or a more uneven one, were the models alike.
    """

    metric: str
    a: float
    b: float
    low: float
    high: float
    share_better: float
    wins: int
    losses: int
    sign_p: float

    @property
    def difference(self) -> float:
        """B minus A."""
        return self.b - self.a


def compare(
    a: Items,
    b: Items,
    metrics: Sequence[str],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    margin: float = 0.0,
    seed: int = 0,
) -> list[Difference]:
    """Compare B with A on the same images.

    Args:
        a: results of one model.
        b: of the other one, in any order of the images.
        metrics: keys, such as `retrieval/scenes/mean_recall@1`.
        confidence: of the intervals, above 0 and below 1.
        resamples: draws; 10,000 leave the ends of an interval uncertain by a few hundredths of its width.
        margin: for `share_better`, in the metric's own unit.
        seed: of the draws.

    Raises:
        ConfigError: other images, another version of the set, or a metric that the items do not hold.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ConfigError(f"confidence {confidence}, resamples {resamples}: between 0 and 1, and 1 or more")
    order = _pairing(a, b)
    pairs = [(a.ratios_of(metric), _ordered(b.ratios_of(metric), order)) for metric in metrics]
    drawn = _bootstrap(pairs, len(a.keys), resamples, seed)
    tail = 100 * (1 - confidence) / 2
    found = []
    for metric, (of_a, of_b), difference_R in zip(metrics, pairs, drawn, strict=True):
        sign = 1.0 if higher_is_better(metric) else -1.0
        low, high = np.nanpercentile(difference_R, [tail, 100 - tail])
        better = sign * difference_R > margin
        wins, losses = _division(of_a, of_b, sign)
        found.append(
            Difference(
                metric,
                _value(of_a),
                _value(of_b),
                float(low),
                float(high),
                float(np.mean(better)),
                wins,
                losses,
                sign_test(wins, losses),
            )
        )
    return found


def interval(
    items: Items, metric: str, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Of one model's metric, by the bootstrap over images.

    Raises:
        ConfigError: the items do not hold the metric.
    """
    ratios = items.ratios_of(metric)
    nothing = tuple((np.zeros_like(above), below) for above, below in ratios)
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(
        _bootstrap([(nothing, ratios)], len(items.keys), resamples, seed)[0], [tail, 100 - tail]
    )
    return float(low), float(high)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p of a fair coin, exact; 1 where there is nothing to count."""
    total, fewer = wins + losses, min(wins, losses)
    if total == 0:
        return 1.0
    # Logarithms of the binomial coefficients, each from the one before it.
    steps = np.arange(1, fewer + 1, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log(total + 1 - steps) - np.log(steps))]) - total * math.log(2.0)
    most = float(logs.max())
    return min(1.0, 2.0 * math.exp(most) * float(np.exp(logs - most).sum()))


def _pairing(a: Items, b: Items) -> npt.NDArray[np.int64]:
    """Where each image of A stands in B."""
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


def _ordered(ratios: tuple[Ratio, ...], order_N: npt.NDArray[np.int64]) -> tuple[Ratio, ...]:
    return tuple((above_N[order_N], below_N[order_N]) for above_N, below_N in ratios)


def _value(ratios: tuple[Ratio, ...]) -> float:
    return float(np.mean([above_N.sum() / below_N.sum() for above_N, below_N in ratios]))


def _bootstrap(
    pairs: Sequence[tuple[tuple[Ratio, ...], tuple[Ratio, ...]]], images: int, resamples: int, seed: int
) -> list[Array]:
    """B minus A in every draw, (R,) for each pair; NaN where a draw has nothing to divide by."""
    columns = [part_N for of_a, of_b in pairs for ratio in (*of_a, *of_b) for part_N in ratio]
    table_NT = np.stack(columns, axis=1)
    draws = np.random.default_rng(seed)
    sums = []
    at_a_time = max(1, _COUNTS_AT_A_TIME // images)
    for begin in range(0, resamples, at_a_time):
        count = min(at_a_time, resamples - begin)
        drawn = draws.integers(0, images, (count, images)) + np.arange(count)[:, None] * images
        times_RN = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images)
        sums.append(times_RN.astype(np.float64) @ table_NT)
    sum_RT = np.concatenate(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_RT = sum_RT[:, ::2] / sum_RT[:, 1::2]
    found, at = [], 0
    for of_a, of_b in pairs:
        middle, end = at + len(of_a), at + len(of_a) + len(of_b)
        found.append(ratio_RT[:, middle:end].mean(axis=1) - ratio_RT[:, at:middle].mean(axis=1))
        at = end
    return found


def _division(of_a: tuple[Ratio, ...], of_b: tuple[Ratio, ...], sign: float) -> tuple[int, int]:
    """Images on which B is better, and worse; those asked nothing count for neither."""
    better_N = sign * (_per_image(of_b) - _per_image(of_a))
    return int(np.count_nonzero(better_N > 0)), int(np.count_nonzero(better_N < 0))


def _per_image(ratios: tuple[Ratio, ...]) -> Array:
    total_N = np.zeros(len(ratios[0][0]))
    for above_N, below_N in ratios:
        total_N += np.divide(above_N, below_N, out=np.zeros_like(above_N), where=below_N > 0)
    return total_N
