"""Histograms as SVG that stands in the page: a few hundred bytes of text each, in the page's colours, sharp at any size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.reports.page import number, text
from clips_pipeline.shards.statistics import Histogram

# The chart's own units; the page scales it to the width there is. Small, so that its letters stay readable on a phone.
_WIDTH, _HEIGHT = 300, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 292, 22, 128

_MOST_BARS = 40
_TICK_DISTANCE = 42
# Else one bar alone would fill the chart.
_FEWEST_OCTAVES = 2


@dataclass(frozen=True, slots=True)
class Bar:
    """Values from `start` (included) to `end` (excluded), of the last bar sometimes also all beyond, and how many there are."""

    start: int
    end: int
    count: int
    beyond: bool = False


def bars(values: NDArray[np.int64], limit: int | None = None, most: int | None = None) -> list[Bar]:
    """Of integers from 0, all bars of one width, so that at most about forty are needed.

    Args:
        values: in any order, at least one.
        limit: no bar holds values on both sides of it: those up to the limit, and those above.
        most: the last bar begins here at the latest and holds all values beyond, so that one that is absurdly large does not
            press the others into a corner.
    """
    high = int(values.max())
    end = high if most is None else min(high, most)
    width = max(1, -(-(max(end, limit or 0) + 1) // _MOST_BARS))
    # The first bar is the narrower one where the limit asks for it.
    first = 0 if limit is None else (limit + 1) % width - width
    places, counts = np.unique((np.minimum(values, end) - first) // width, return_counts=True)
    starts = (places * width + first).tolist()
    return [
        Bar(max(start, 0), start + width, count, start == starts[-1] and high >= start + width)
        for start, count in zip(starts, counts.tolist(), strict=True)
    ]


def octave_bars(histogram: Histogram) -> list[Bar]:
    """Four bars for every doubling, for values that differ by orders of magnitude; each is the sum of whole bins."""
    found: dict[int, int] = {}
    for start, count in histogram.bins:
        # The three highest bits say which quarter of which octave.
        shift = max(start.bit_length() - 3, 0)
        place = (start >> shift) << shift
        found[place] = found.get(place, 0) + count
    return [Bar(start, start + (1 << max(start.bit_length() - 3, 0)), count) for start, count in sorted(found.items())]


def histogram_chart(
    drawn: Sequence[Bar],
    title: str,
    *,
    limit: int | None = None,
    limit_name: str = "",
    doubling: int | None = None,
    unit: str = "",
    show: Callable[[float], str] = number,
) -> str:
    """A histogram as `<svg>`, with a description for those who do not see it.

    Args:
        drawn: bars in order, at least one.
        title: says what is counted.
        limit: values above it are coloured as cut.
        limit_name: stands at the limit's mark.
        doubling: equal distances are equal ratios, with this value and its doubles and halves on the axis; None for equal
            differences.
        unit: of the values, for the description.
        show: a value as plain text.
    """
    place = math.log2 if doubling else float
    end = max(drawn[-1].end, (limit or 0) + 1)
    low, high = (place(max(drawn[0].start, 1)), place(end)) if doubling else (0.0, float(end))
    if doubling and high - low < _FEWEST_OCTAVES:
        low, high = (low + high - _FEWEST_OCTAVES) / 2, (low + high + _FEWEST_OCTAVES) / 2
    most = max(bar.count for bar in drawn)
    total = sum(bar.count for bar in drawn)

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (place(max(value, 1) if doubling else value) - low) / (high - low)

    parts = []
    for bar in drawn:
        left, right = x(bar.start), x(bar.end)
        # A bar that is there is seen: at least one unit high.
        height = max((_BOTTOM - _TOP) * bar.count / most, 1.0)
        name = "cut" if limit is not None and bar.start > limit else "bar"
        parts.append(
            f'<rect class="{name}" x="{left:.1f}" y="{_BOTTOM - height:.1f}" width="{max(right - left - 0.5, 1):.1f}" '
            f'height="{height:.1f}"><title>{text(_reach(bar, show))}: {number(bar.count)}</title></rect>'
        )
    parts.append(f'<path class="axis" d="M{_LEFT} {_BOTTOM}H{_RIGHT}"/>')
    # A bar of one value has its name below its middle.
    single = 0.5 if not doubling and all(bar.end - bar.start == 1 for bar in drawn) else 0.0
    candidates = _doubles(doubling, 2**low, 2**high) if doubling else _rounds(end)
    taken = -math.inf
    for value in candidates:
        at = x(value + single)
        # Near neighbours would overlap.
        if _LEFT <= at <= _RIGHT and at - taken >= _TICK_DISTANCE:
            taken = at
            anchor = "start" if at < _LEFT + 12 else "end" if at > _RIGHT - 12 else "middle"
            parts.append(f'<text x="{at:.1f}" y="{_BOTTOM + 14}" text-anchor="{anchor}">{text(show(value))}</text>')
    if limit is not None:
        at = x(limit + 1)
        anchor = "end" if at > (_LEFT + _RIGHT) / 2 else "start"
        parts.append(f'<path class="mark" d="M{at:.1f} {_TOP - 8}V{_BOTTOM}"/>')
        parts.append(
            f'<text x="{at + (-4 if anchor == "end" else 4):.1f}" y="{_TOP - 8}" text-anchor="{anchor}">{text(limit_name)}</text>'
        )
    fullest = max(drawn, key=lambda bar: bar.count)
    described = (
        f"{title}: histogram of {number(total)} values, the smallest {_reach(drawn[0], show)}, the largest "
        f"{_reach(drawn[-1], show)} {unit}; most frequent: {_reach(fullest, show)}"
    )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(described)}">{"".join(parts)}</svg>'


def _reach(bar: Bar, show: Callable[[float], str]) -> str:
    if bar.beyond:
        return f"{show(bar.start)} and more"
    return show(bar.start) if bar.end - bar.start == 1 else f"{show(bar.start)} to {show(bar.end - 1)}"


def _rounds(end: int) -> range:
    """From 0 in steps of 1, 2 or 5 times a power of ten, about six of them."""
    step = next(step for power in range(20) for step in (10**power, 2 * 10**power, 5 * 10**power) if 6 * step >= end)
    return range(0, end + 1, step)


def _doubles(base: int, low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log2(low / base)), math.floor(math.log2(high / base))
    return [base * 2.0**power for power in range(first, last + 1)]
