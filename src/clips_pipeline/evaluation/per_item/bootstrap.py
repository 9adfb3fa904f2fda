"""Bootstrap over images, for metrics that are functions of ratios of sums over images.

Each image contributes to numerators and denominators. A bootstrap sample sums both over images drawn with replacement, divides,
and combines the ratios: image-to-text recall@1 is the number of hits over the number of queries, `mean_recall@1` the mean of
two such ratios, BLEU-4 a function of six.
Legend of suffixes: N images, R bootstrap samples, T columns of sums, P ratios, G groups that occur, S images of these groups.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Combine = Callable[[Array], Array]
"""Maps ratios (R, P) of R bootstrap samples to the metric (R,). A ratio is NaN if its denominator is 0."""

NO_GROUP = -1
_COUNTS_AT_A_TIME = 4_000_000


def mean_of_ratios(ratio_RP: Array) -> Array:
    """Return (R,) the unweighted mean of the ratios; NaN if one of them is NaN."""
    return np.asarray(ratio_RP.mean(axis=1))


@dataclass(frozen=True)
class Ratio:
    """Ratio of two sums over images.

    Attributes:
        numerator: (N,) contribution of each image to the numerator.
        denominator: (N,) contribution to the denominator; 0 for images that are not queries.
        group: (N,) group (class) of each image, `NO_GROUP` for none. The value is then the mean of the ratios of the groups
            that occur in the bootstrap sample. None for one ratio over all images.
    """

    numerator: Array
    denominator: Array
    group: IntArray | None = None

    def reordered(self, order_N: IntArray) -> "Ratio":
        """Return the same with the images in another order."""
        group_N = None if self.group is None else self.group[order_N]
        return Ratio(self.numerator[order_N], self.denominator[order_N], group_N)

    def value(self) -> float:
        """Compute the ratio over all images; NaN if the denominator is 0."""
        if self.group is None:
            # `fsum` is exactly rounded, so that the value does not depend on the order of the images.
            numerator, denominator = math.fsum(self.numerator), math.fsum(self.denominator)
            return numerator / denominator if denominator else math.nan
        numerator_1G, denominator_1G = (
            np.ones((1, len(self.numerator))) @ column_NG for column_NG in self.group_matrices()
        )
        return float(_mean_of_groups(numerator_1G, denominator_1G)[0])

    def group_matrices(self) -> tuple[Any, Any]:
        """Return the contributions of each image to numerator and denominator of its group, as sparse (N, G) matrices."""
        # Imported here because the import is slow and this module is imported with the gate.
        from scipy.sparse import csr_array

        assert self.group is not None  # noqa: S101
        (of_a_group_S,) = np.nonzero(self.group != NO_GROUP)
        names_G, group_S = np.unique(self.group[of_a_group_S], return_inverse=True)
        numerator, denominator = (
            csr_array((column_N[of_a_group_S], (of_a_group_S, group_S)), shape=(len(column_N), len(names_G)))
            for column_N in (self.numerator, self.denominator)
        )
        return numerator, denominator


@dataclass(frozen=True)
class RatioMetric:
    """A metric of one model as a function of ratios.

    Attributes:
        ratios: the ratios.
        combine: computes the metric from them.
    """

    ratios: tuple[Ratio, ...]
    combine: Combine = mean_of_ratios

    def reordered(self, order_N: IntArray) -> "RatioMetric":
        """Return the same with the images in another order."""
        return RatioMetric(tuple(ratio.reordered(order_N) for ratio in self.ratios), self.combine)

    def value(self) -> float:
        """Compute the metric over all images."""
        return float(self.combine(np.array([[ratio.value() for ratio in self.ratios]]))[0])

    def per_image(self) -> Array:
        """Compute (N,) the metric of every single image; ratios with denominator 0 count as 0."""
        values = [
            np.divide(r.numerator, r.denominator, out=np.zeros_like(r.numerator), where=r.denominator > 0)
            for r in self.ratios
        ]
        return self.combine(np.stack(values, axis=1))


def hit_ratio(hit_N: npt.NDArray[np.bool_], query_N: npt.NDArray[np.bool_], group: IntArray | None = None) -> Ratio:
    """Return the ratio of hits to queries."""
    return Ratio((hit_N & query_N).astype(np.float64), query_N.astype(np.float64), group)


def bootstrap(metrics: Sequence[RatioMetric], images: int, resamples: int, seed: int) -> list[Array]:
    """Compute each metric in every bootstrap sample. All metrics use the same samples.

    Args:
        metrics: metrics on the same images in the same order.
        images: number of images.
        resamples: number of bootstrap samples.
        seed: random seed.

    Returns:
        (R,) values per metric; NaN where a denominator is 0.
    """
    ratios = [ratio for metric in metrics for ratio in metric.ratios]
    plain = [place for place, part in enumerate(ratios) if part.group is None]
    columns = [column_N for place in plain for column_N in (ratios[place].numerator, ratios[place].denominator)]
    table_NT = np.stack(columns, axis=1) if columns else np.empty((images, 0))
    grouped = {place: part.group_matrices() for place, part in enumerate(ratios) if part.group is not None}
    draws = np.random.default_rng(seed)
    ratio_RP = np.empty((resamples, len(ratios)))
    at_a_time = max(1, _COUNTS_AT_A_TIME // images)
    for begin in range(0, resamples, at_a_time):
        rows_RP = ratio_RP[begin : begin + at_a_time]
        count = len(rows_RP)
        drawn = draws.integers(0, images, (count, images)) + np.arange(count)[:, None] * images
        times_RN = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)
        sum_RT = times_RN @ table_NT
        with np.errstate(divide="ignore", invalid="ignore"):
            rows_RP[:, plain] = sum_RT[:, ::2] / sum_RT[:, 1::2]
        for place, (numerator_NG, denominator_NG) in grouped.items():
            rows_RP[:, place] = _mean_of_groups(times_RN @ numerator_NG, times_RN @ denominator_NG)
    ends = np.cumsum([len(metric.ratios) for metric in metrics])[:-1]
    return [metric.combine(own_RP) for metric, own_RP in zip(metrics, np.split(ratio_RP, ends, axis=1), strict=True)]


def _mean_of_groups(numerator_RG: Array, denominator_RG: Array) -> Array:
    """Return (R,) the mean of the ratios of the groups that occur; NaN if none does."""
    occurs_RG = denominator_RG > 0
    each_RG = np.divide(numerator_RG, denominator_RG, out=np.zeros_like(numerator_RG), where=occurs_RG)
    with np.errstate(invalid="ignore"):
        return np.asarray(each_RG.sum(axis=1) / occurs_RG.sum(axis=1))
