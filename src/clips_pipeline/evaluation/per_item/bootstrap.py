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


def mean_of_parts(ratio_RP: Array) -> Array:
    """(R,): every part weighs the same; NaN where one of them has nothing to divide by."""
    return np.asarray(ratio_RP.mean(axis=1))


@dataclass(frozen=True)
class Part:
    """One quotient.

    Attributes:
        above: (N,) what each image adds to the numerator.
        below: (N,) and to the denominator, 0 where it is not asked.
        group: (N,) class of each image, `NO_GROUP` for none: the quotient is then the mean of the quotients of the groups
            that occur in a draw. None divides the sums over all images.
    """

    above: Array
    below: Array
    group: IntArray | None = None

    def ordered(self, order_N: IntArray) -> "Part":
        """The same with the images in another order."""
        group_N = None if self.group is None else self.group[order_N]
        return Part(self.above[order_N], self.below[order_N], group_N)

    def quotient(self) -> float:
        """Of all images; NaN where there is nothing to divide by."""
        if self.group is None:
            # Correctly rounded, so that it does not depend on the order of the images.
            above, below = math.fsum(self.above), math.fsum(self.below)
            return above / below if below else math.nan
        above_1G, below_1G = (np.ones((1, len(self.above))) @ column_NG for column_NG in self.by_group())
        return float(_mean_of_groups(above_1G, below_1G)[0])

    def by_group(self) -> tuple[Any, Any]:
        """What each image adds to the numerator and the denominator of its group, as sparse (N, G) matrices."""
        # Here, because it takes a moment, and this module is loaded with the gate.
        from scipy.sparse import csr_array

        assert self.group is not None  # noqa: S101
        (of_a_group_S,) = np.nonzero(self.group != NO_GROUP)
        names_G, group_S = np.unique(self.group[of_a_group_S], return_inverse=True)
        above, below = (
            csr_array((column_N[of_a_group_S], (of_a_group_S, group_S)), shape=(len(column_N), len(names_G)))
            for column_N in (self.above, self.below)
        )
        return above, below


@dataclass(frozen=True)
class Measure:
    """A metric of one model.

    Attributes:
        parts: its quotients.
        combine: what makes the metric of them.
    """

    parts: tuple[Part, ...]
    combine: Combine = mean_of_parts

    def ordered(self, order_N: IntArray) -> "Measure":
        """The same with the images in another order."""
        return Measure(tuple(part.ordered(order_N) for part in self.parts), self.combine)

    def value(self) -> float:
        """The metric of all images."""
        return float(self.combine(np.array([[part.quotient() for part in self.parts]]))[0])

    def each(self) -> Array:
        """(N,) the metric of every image alone; a part that an image is not asked for counts as 0."""
        ratios = [np.divide(p.above, p.below, out=np.zeros_like(p.above), where=p.below > 0) for p in self.parts]
        return self.combine(np.stack(ratios, axis=1))


def counted(hit_N: npt.NDArray[np.bool_], asked_N: npt.NDArray[np.bool_], group: IntArray | None = None) -> Part:
    """Images that are right over images asked."""
    return Part((hit_N & asked_N).astype(np.float64), asked_N.astype(np.float64), group)


def resampled(measures: Sequence[Measure], images: int, resamples: int, seed: int) -> list[Array]:
    """Each metric in every draw of the bootstrap; all metrics see the same draws.

    Args:
        measures: of the same images in the same order.
        images: how many.
        resamples: draws.
        seed: of the draws.

    Returns:
        (R,) for each metric; NaN where a draw has nothing to divide by.
    """
    parts = [part for measure in measures for part in measure.parts]
    plain = [place for place, part in enumerate(parts) if part.group is None]
    columns = [column_N for place in plain for column_N in (parts[place].above, parts[place].below)]
    table_NT = np.stack(columns, axis=1) if columns else np.empty((images, 0))
    grouped = {place: part.by_group() for place, part in enumerate(parts) if part.group is not None}
    draws = np.random.default_rng(seed)
    ratio_RP = np.empty((resamples, len(parts)))
    at_a_time = max(1, _COUNTS_AT_A_TIME // images)
    for begin in range(0, resamples, at_a_time):
        rows_RP = ratio_RP[begin : begin + at_a_time]
        count = len(rows_RP)
        drawn = draws.integers(0, images, (count, images)) + np.arange(count)[:, None] * images
        times_RN = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)
        sum_RT = times_RN @ table_NT
        with np.errstate(divide="ignore", invalid="ignore"):
            rows_RP[:, plain] = sum_RT[:, ::2] / sum_RT[:, 1::2]
        for place, (above_NG, below_NG) in grouped.items():
            rows_RP[:, place] = _mean_of_groups(times_RN @ above_NG, times_RN @ below_NG)
    ends = np.cumsum([len(measure.parts) for measure in measures])[:-1]
    return [measure.combine(own_RP) for measure, own_RP in zip(measures, np.split(ratio_RP, ends, axis=1), strict=True)]


def _mean_of_groups(above_RG: Array, below_RG: Array) -> Array:
    """(R,) mean of the quotients of the groups that occur; NaN where none does."""
    occurs_RG = below_RG > 0
    each_RG = np.divide(above_RG, below_RG, out=np.zeros_like(above_RG), where=occurs_RG)
    with np.errstate(invalid="ignore"):
        return np.asarray(each_RG.sum(axis=1) / occurs_RG.sum(axis=1))
