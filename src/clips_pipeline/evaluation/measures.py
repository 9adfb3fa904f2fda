"""A metric as what each image adds to it, so that it can be computed for any draw of the images.

What an image adds are numerators and denominators. A draw sums both, divides, and combines the quotients: recall at 1 from
image to text counts images found over images asked, `mean_recall@1` is the mean of two such quotients, BLEU-4 is made of six.
Legend of suffixes: N images, R draws, P parts, G groups that occur, S images that belong to one of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Combine = Callable[[Array], Array]
"""(R, P) quotients of R draws to the metric of each draw, (R,). A quotient is NaN where the draw has nothing to divide by."""

NO_GROUP = -1


def mean_of_parts(ratio_RP: Array) -> Array:
    """(R,): every part weighs the same; NaN where one of them has nothing to divide by."""
    return np.asarray(ratio_RP.mean(axis=1))


@dataclass(frozen=True)
class Grouping:
    """Images put in the order of their groups, so that `np.add.reduceat` sums them group by group.

    Attributes:
        order: (S,) rows of the images.
        starts: (G,) where each group begins among them.
    """

    order: IntArray
    starts: IntArray

    @classmethod
    def of(cls, group_N: IntArray) -> "Grouping":
        """Sort once; images of `NO_GROUP` are left out."""
        order_S = np.argsort(group_N, kind="stable")
        order_S = order_S[np.searchsorted(group_N[order_S], NO_GROUP, side="right") :]
        group_S = group_N[order_S]
        first_S = np.ones(len(group_S), dtype=np.bool_)
        first_S[1:] = group_S[1:] != group_S[:-1]
        return cls(order_S, np.flatnonzero(first_S))


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

    @cached_property
    def grouping(self) -> Grouping | None:
        """Of `group`."""
        return None if self.group is None else Grouping.of(self.group)

    def ordered(self, order_N: IntArray) -> "Part":
        """The same with the images in another order."""
        group_N = None if self.group is None else self.group[order_N]
        return Part(self.above[order_N], self.below[order_N], group_N)

    def quotient(self) -> float:
        """Of all images; NaN where there is nothing to divide by."""
        if self.grouping is None:
            # Correctly rounded, so that it does not depend on the order of the images.
            above, below = math.fsum(self.above), math.fsum(self.below)
            return above / below if below else math.nan
        above_G, below_G = (
            np.add.reduceat(part_N[self.grouping.order], self.grouping.starts) for part_N in (self.above, self.below)
        )
        occurs_G = below_G > 0
        return float(np.mean(above_G[occurs_G] / below_G[occurs_G])) if occurs_G.any() else math.nan


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
        ratio_NP = np.stack([_divided(part) for part in self.parts], axis=1)
        return self.combine(ratio_NP)


def counted(hit_N: npt.NDArray[np.bool_], asked_N: npt.NDArray[np.bool_], group: IntArray | None = None) -> Part:
    """Images that are right over images asked."""
    return Part((hit_N & asked_N).astype(np.float64), asked_N.astype(np.float64), group)


def _divided(part: Part) -> Array:
    return np.divide(part.above, part.below, out=np.zeros_like(part.above), where=part.below > 0)
