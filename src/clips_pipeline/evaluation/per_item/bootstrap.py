"""Bootstrap over items, for metrics that are functions of ratios of sums over items.

A metric is a function of ratios. Numerator and denominator of a ratio are sums over items. Each resample draws items with
replacement, recomputes the sums and ratios, and combines them: image-to-text recall@1 is the number of hits over the number of
queries, `mean_recall@1` the mean of two such ratios, BLEU-4 a function of six.

Shapes: N items, R resamples, T columns of sums, P ratios, C classes that occur, S items of these classes.
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
"""Maps ratios (R, P) of R resamples to the metric (R,). A ratio is NaN if its denominator is 0."""

NO_CLASS = -1
_COUNTS_PER_BLOCK = 4_000_000


def mean_of_ratios(ratio_RP: Array) -> Array:
    """Return the unweighted mean of the ratios, (R,); NaN if one of them is NaN."""
    return np.asarray(ratio_RP.mean(axis=1))


@dataclass(frozen=True)
class Ratio:
    """Ratio of two sums over items.

    Attributes:
        numerator: (N,) contribution of each item to the numerator.
        denominator: (N,) contribution to the denominator; 0 for items that are not queries.
        class_ids: (N,) class of each item, `NO_CLASS` for none. The value is then the mean of the ratios of the classes that
            occur in the resample. None for one ratio over all items.
    """

    numerator: Array
    denominator: Array
    class_ids: IntArray | None = None

    def reordered(self, order_N: IntArray) -> "Ratio":
        """Return the same with the items in another order."""
        class_N = None if self.class_ids is None else self.class_ids[order_N]
        return Ratio(self.numerator[order_N], self.denominator[order_N], class_N)

    def value(self) -> float:
        """Compute the value over all items: the ratio, or with classes the mean of the classes' ratios.

        NaN if the denominator is 0 (with classes: if all are).
        """
        if self.class_ids is None:
            # `fsum` is exactly rounded, so that the value does not depend on the order of the items.
            numerator, denominator = math.fsum(self.numerator), math.fsum(self.denominator)
            return numerator / denominator if denominator else math.nan
        numerator_1C, denominator_1C = (
            np.ones((1, len(self.numerator))) @ column_NC for column_NC in self.class_matrices()
        )
        return float(_mean_over_classes(numerator_1C, denominator_1C)[0])

    def class_matrices(self) -> tuple[Any, Any]:
        """Return the contributions of each item to numerator and denominator of its class, as sparse (N, C) matrices."""
        # Imported here because the import is slow and this module is imported with the gate.
        from scipy.sparse import csr_array

        assert self.class_ids is not None  # noqa: S101
        (with_class_S,) = np.nonzero(self.class_ids != NO_CLASS)
        names_C, class_S = np.unique(self.class_ids[with_class_S], return_inverse=True)
        numerator, denominator = (
            csr_array((column_N[with_class_S], (with_class_S, class_S)), shape=(len(column_N), len(names_C)))
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
        """Return the same with the items in another order."""
        return RatioMetric(tuple(ratio.reordered(order_N) for ratio in self.ratios), self.combine)

    def value(self) -> float:
        """Compute the metric over all items."""
        return float(self.combine(np.array([[ratio.value() for ratio in self.ratios]]))[0])

    def per_item(self) -> Array:
        """Compute the metric of each item alone, (N,); ratios with denominator 0 count as 0."""
        values = [
            np.divide(r.numerator, r.denominator, out=np.zeros_like(r.numerator), where=r.denominator > 0)
            for r in self.ratios
        ]
        return self.combine(np.stack(values, axis=1))


def hit_ratio(hit_N: npt.NDArray[np.bool_], query_N: npt.NDArray[np.bool_], class_ids: IntArray | None = None) -> Ratio:
    """Return the ratio of hits to queries.

    Args:
        hit_N: whether an item is a hit; counted for queries only.
        query_N: whether an item is a query.
        class_ids: class of each item; None for one ratio.

    Returns:
        Number of hits divided by number of queries.
    """
    return Ratio((hit_N & query_N).astype(np.float64), query_N.astype(np.float64), class_ids)


def bootstrap(metrics: Sequence[RatioMetric], items: int, resamples: int, seed: int) -> list[Array]:
    """Compute each metric in every resample. All metrics use the same resamples.

    Args:
        metrics: metrics on the same items in the same order.
        items: number of items.
        resamples: number of resamples.
        seed: random seed.

    Returns:
        For each metric its values (R,), one per resample; NaN where a denominator is 0 (with classes: where all are).

    Raises:
        ValueError: `items` is below 1.
    """
    if items < 1:
        raise ValueError(f"items is {items}; a bootstrap needs at least 1")
    ratios = [ratio for metric in metrics for ratio in metric.ratios]
    plain = [place for place, ratio in enumerate(ratios) if ratio.class_ids is None]
    columns = [column_N for place in plain for column_N in (ratios[place].numerator, ratios[place].denominator)]
    table_NT = np.stack(columns, axis=1) if columns else np.empty((items, 0))
    by_class = {place: ratio.class_matrices() for place, ratio in enumerate(ratios) if ratio.class_ids is not None}
    rng = np.random.default_rng(seed)
    ratio_RP = np.empty((resamples, len(ratios)))
    resamples_per_block = max(1, _COUNTS_PER_BLOCK // items)
    for begin in range(0, resamples, resamples_per_block):
        block_RP = ratio_RP[begin : begin + resamples_per_block]
        rows = len(block_RP)
        drawn = rng.integers(0, items, (rows, items)) + np.arange(rows)[:, None] * items
        count_RN = np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items).astype(np.float64)
        sum_RT = count_RN @ table_NT
        with np.errstate(divide="ignore", invalid="ignore"):
            block_RP[:, plain] = sum_RT[:, ::2] / sum_RT[:, 1::2]
        for place, (numerator_NC, denominator_NC) in by_class.items():
            block_RP[:, place] = _mean_over_classes(count_RN @ numerator_NC, count_RN @ denominator_NC)
    ends = np.cumsum([len(metric.ratios) for metric in metrics])[:-1]
    return [metric.combine(own_RP) for metric, own_RP in zip(metrics, np.split(ratio_RP, ends, axis=1), strict=True)]


def _mean_over_classes(numerator_RC: Array, denominator_RC: Array) -> Array:
    """Return the mean of the ratios of the classes that occur, (R,); NaN if none does."""
    occurs_RC = denominator_RC > 0
    each_RC = np.divide(numerator_RC, denominator_RC, out=np.zeros_like(numerator_RC), where=occurs_RC)
    with np.errstate(invalid="ignore"):
        return np.asarray(each_RC.sum(axis=1) / occurs_RC.sum(axis=1))
