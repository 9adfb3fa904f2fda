"""The bootstrap: images are drawn with replacement, and every metric is computed anew for every draw.

Legend of suffixes: N images, R draws, T columns of sums, P parts, G groups, S images that belong to one of them.
"""

from collections.abc import Sequence

import numpy as np

from clips_pipeline.evaluation.measures import Array, Grouping, Measure, Part

_COUNTS_AT_A_TIME = 4_000_000


def resampled(measures: Sequence[Measure], images: int, resamples: int, seed: int) -> list[Array]:
    """Each metric in every draw; all metrics see the same draws.

    Args:
        measures: of the same images in the same order.
        images: how many.
        resamples: draws.
        seed: of the draws.

    Returns:
        (R,) for each metric; NaN where a draw has nothing to divide by.
    """
    parts = [part for measure in measures for part in measure.parts]
    draws = np.random.default_rng(seed)
    ratios = []
    at_a_time = max(1, _COUNTS_AT_A_TIME // images)
    sums = _Sums(parts, images)
    for begin in range(0, resamples, at_a_time):
        count = min(at_a_time, resamples - begin)
        drawn = draws.integers(0, images, (count, images)) + np.arange(count)[:, None] * images
        times_RN = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images)
        ratios.append(sums.ratios(times_RN.astype(np.float64)))
    ratio_RP = np.concatenate(ratios)
    found, at = [], 0
    for measure in measures:
        found.append(measure.combine(ratio_RP[:, at : at + len(measure.parts)]))
        at += len(measure.parts)
    return found


class _Sums:
    """The quotients of parts for how often each image was drawn.

    Sums over all images are one matrix product. Sums by class would need a column for each class, which a thousand classes
    forbid: the counts are put in the order of the classes and summed run by run, once for all parts with the same classes.
    """

    def __init__(self, parts: Sequence[Part], images: int) -> None:
        self.places = [place for place, part in enumerate(parts) if part.group is None]
        columns = [column_N for place in self.places for column_N in (parts[place].above, parts[place].below)]
        self.table_NT = np.stack(columns, axis=1) if columns else np.empty((images, 0))
        self.count = len(parts)
        self.grouped: dict[bytes, tuple[Grouping, list[tuple[int, Array, Array]]]] = {}
        for place, part in enumerate(parts):
            if part.group is not None and part.grouping is not None:
                order_S = part.grouping.order
                _, same = self.grouped.setdefault(part.group.tobytes(), (part.grouping, []))
                same.append((place, part.above[order_S], part.below[order_S]))

    def ratios(self, times_RN: Array) -> Array:
        ratio_RP = np.empty((len(times_RN), self.count))
        sum_RT = times_RN @ self.table_NT
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio_RP[:, self.places] = sum_RT[:, ::2] / sum_RT[:, 1::2]
            for grouping, same in self.grouped.values():
                times_RS = times_RN[:, grouping.order]
                for place, above_S, below_S in same:
                    above_RG = np.add.reduceat(times_RS * above_S, grouping.starts, axis=1)
                    below_RG = np.add.reduceat(times_RS * below_S, grouping.starts, axis=1)
                    occurs_RG = below_RG > 0
                    each_RG = np.divide(above_RG, below_RG, out=np.zeros_like(above_RG), where=occurs_RG)
                    ratio_RP[:, place] = each_RG.sum(axis=1) / occurs_RG.sum(axis=1)
        return ratio_RP
