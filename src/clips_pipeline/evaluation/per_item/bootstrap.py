"""A metric as what each image adds to it, so that it can be computed for any draw of the images.

What an image adds are numerators and denominators. A draw sums both, divides, and combines the quotients: recall at 1 from
image to text counts images found over images asked, `mean_recall@1` is the mean of two such quotients, BLEU-4 is made of six.
The bootstrap draws images with replacement.
Legend of suffixes: N images, R draws, T columns of sums, P parts, G groups that occur, S images that belong to one of them.
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
"""(R, P) quotients of R draws to the metric of each draw, (R,). A quotient is NaN where the draw has nothing to divide by."""

NO_GROUP = -1
_COUNTS_AT_A_TIME = 4_000_000


def mean_of_ratios(ratio_RP: Array) -> Array:
    """(R,): every part weighs the same; NaN where one of them has nothing to divide by."""
    return np.asarray(ratio_RP.mean(axis=1))


@dataclass(frozen=True)
class Ratio:
    """One quotient.

    Attributes:
        numerator: (N,) what each image adds to the numerator.
        denominator: (N,) and to the denominator, 0 where it is not asked.
        group: (N,) class of each image, `NO_GROUP` for none: the quotient is then the mean of the quotients of the groups
            that occur in a draw. None divides the sums over all images.
    """

    numerator: Array
    denominator: Array
    group: IntArray | None = None

    def reordered(self, order_N: IntArray) -> "Ratio":
        """The same with the images in another order."""
        group_N = None if self.group is None else self.group[order_N]
        return Ratio(self.numerator[order_N], self.denominator[order_N], group_N)

    def value(self) -> float:
        """Of all images; NaN where there is nothing to divide by."""
        if self.group is None:
            # Correctly rounded, so that it does not depend on the order of the images.
            numerator, denominator = math.fsum(self.numerator), math.fsum(self.denominator)
            return numerator / denominator if denominator else math.nan
        numerator_1G, denominator_1G = (
            np.ones((1, len(self.numerator))) @ column_NG for column_NG in self.group_matrices()
        )
        return float(_mean_of_groups(numerator_1G, denominator_1G)[0])

    def group_matrices(self) -> tuple[Any, Any]:
        """What each image adds to the numerator and the denominator of its group, as sparse (N, G) matrices."""
        # Here, because it takes a moment, and this module is loaded with the gate.
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
    """A metric of one model.

    Attributes:
        ratios: its quotients.
        combine: what makes the metric of them.
    """

    ratios: tuple[Ratio, ...]
    combine: Combine = mean_of_ratios

    def reordered(self, order_N: IntArray) -> "RatioMetric":
        """The same with the images in another order."""
        return RatioMetric(tuple(ratio.reordered(order_N) for ratio in self.ratios), self.combine)

    def value(self) -> float:
        """The metric of all images."""
        return float(self.combine(np.array([[ratio.value() for ratio in self.ratios]]))[0])

    def per_image(self) -> Array:
        """(N,) the metric of every image alone; a part that an image is not asked for counts as 0."""
        values = [
            np.divide(r.numerator, r.denominator, out=np.zeros_like(r.numerator), where=r.denominator > 0)
            for r in self.ratios
        ]
        return self.combine(np.stack(values, axis=1))


def hit_ratio(hit_N: npt.NDArray[np.bool_], asked_N: npt.NDArray[np.bool_], group: IntArray | None = None) -> Ratio:
    """Images that are right over images asked."""
    return Ratio((hit_N & asked_N).astype(np.float64), asked_N.astype(np.float64), group)


def bootstrap(metrics: Sequence[RatioMetric], images: int, resamples: int, seed: int) -> list[Array]:
    """Each metric in every draw of the bootstrap; all metrics see the same draws.

    Args:
        metrics: of the same images in the same order.
        images: how many.
        resamples: draws.
        seed: of the draws.

    Returns:
        (R,) for each metric; NaN where a draw has nothing to divide by.
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
    """(R,) mean of the quotients of the groups that occur; NaN where none does."""
    occurs_RG = denominator_RG > 0
    each_RG = np.divide(numerator_RG, denominator_RG, out=np.zeros_like(numerator_RG), where=occurs_RG)
    with np.errstate(invalid="ignore"):
        return np.asarray(each_RG.sum(axis=1) / occurs_RG.sum(axis=1))
