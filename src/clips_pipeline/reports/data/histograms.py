"""Histograms as SVG in the colors of the page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from clips_pipeline.data.prepare.statistics import Histogram
from clips_pipeline.reports.figure import LINE, SERIES, label, set_tooltip, svg
from clips_pipeline.reports.page import format_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAR, _CUT = SERIES[0], SERIES[1]
_MOST_BARS = 40
_MOST_TICKS = 6
_NEXT_TO_ZERO = 0.75
_SIZE = (4.0, 2.0)


@dataclass(frozen=True, slots=True)
class Bar:
    """Number of values from `start` (inclusive) to `end` (exclusive); an open-ended bar also counts all larger values."""

    start: int
    end: int
    count: int
    open_ended: bool = False


def bars(values: NDArray[np.int64], limit: int | None = None, most: int | None = None) -> list[Bar]:
    """Group non-negative integers into at most about 40 bars of equal width.

    Args:
        values: values in any order, at least one.
        limit: a boundary between bars: no bar has values both up to the limit and above it.
        most: the last bar starts here at the latest and is open-ended, so that an outlier does not compress the other bars.
    """
    high = int(values.max())
    end = high if most is None else min(high, most)
    width = max(1, -(-(max(end, limit or 0) + 1) // _MOST_BARS))
    # The first bar is narrower if the limit requires it.
    first = 0 if limit is None else (limit + 1) % width - width
    places, counts = np.unique((np.minimum(values, end) - first) // width, return_counts=True)
    starts = (places * width + first).tolist()
    return [
        Bar(max(start, 0), start + width, count, start == starts[-1] and high >= start + width)
        for start, count in zip(starts, counts.tolist(), strict=True)
    ]


def octave_bars(histogram: Histogram) -> list[Bar]:
    """Group into four bars per octave, for values over orders of magnitude; each bar is a sum of whole bins."""
    found: dict[int, int] = {}
    for start, count in histogram.bins:
        # The three highest bits give octave and quarter.
        shift = max(start.bit_length() - 3, 0)
        place = (start >> shift) << shift
        found[place] = found.get(place, 0) + count
    return [Bar(start, start + (1 << max(start.bit_length() - 3, 0)), count) for start, count in sorted(found.items())]


def histogram_chart(
    drawn: Sequence[Bar],
    title: str,
    *,
    limit: int | None = None,
    doubling: int | None = None,
    unit: str = "",
    show: Callable[[float], str] = format_number,
) -> Markup:
    """Draw a histogram as `<svg>` with alternative text.

    Args:
        drawn: bars in order, at least one.
        title: what is counted; must be unique within a page.
        limit: bars above this value have the color of truncated values, and the value is marked.
        doubling: logarithmic axis with ticks at this value times powers of two; None for a linear axis.
        unit: unit of the values.
        show: formats a value as plain text.
    """
    most = max(bar.count for bar in drawn)
    # Bars of single values have their ticks below the center.
    shift = 0.5 if not doubling and all(bar.end - bar.start == 1 for bar in drawn) else 0.0

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for bar in drawn:
            # Make every bar visible: 0 has no position on a logarithmic axis, and other bars may be too thin or too low.
            start = (bar.start or _NEXT_TO_ZERO) if doubling else bar.start
            width = bar.end - start if doubling else max(bar.end - start, drawn[-1].end / 300)
            height = max(bar.count, most / 100)
            color = _CUT if limit is not None and bar.start > limit else _BAR
            (patch,) = axes.bar(start - shift, height, width, align="edge", color=color, edgecolor="none")
            set_tooltip(patch, f"{_bar_range(bar, show)}: {format_number(bar.count)}")
        if doubling:
            low, high = drawn[0].start or _NEXT_TO_ZERO, drawn[-1].end
            axes.set_xscale("log", base=2)
            # Otherwise a single bar would fill the chart.
            axes.set_xlim(min(low, high / 4), max(high, low * 4))
            axes.set_xticks(_doubles(doubling, *axes.get_xlim()))
            axes.minorticks_off()
        else:
            axes.set_xlim(-shift, max(drawn[-1].end, (limit or 0) + 2) - shift)
            axes.locator_params(axis="x", nbins=_MOST_TICKS, integer=True, min_n_ticks=1)
        axes.xaxis.set_major_formatter(lambda value, _: label(show(round(value))))
        if limit is not None:
            axes.axvline(limit + 1 - shift, color=_CUT, linewidth=1, linestyle="--")
            axes.annotate(
                f"{limit} {unit}",
                (limit + 1 - shift, 1.02),
                xycoords=("data", "axes fraction"),
                ha="right",
                va="bottom",
            )
        axes.yaxis.set_visible(False)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color(LINE)

    fullest = max(drawn, key=lambda bar: bar.count)
    description = (
        f"{title}: histogram of {format_number(sum(bar.count for bar in drawn))} values, "
        f"smallest {_bar_range(drawn[0], show)}, largest {_bar_range(drawn[-1], show)} {unit}; "
        f"most frequent: {_bar_range(fullest, show)}"
    )
    return svg(draw, description, size=_SIZE)


def _bar_range(bar: Bar, show: Callable[[float], str]) -> str:
    if bar.open_ended:
        return f"{show(bar.start)} or more"
    return show(bar.start) if bar.end - bar.start == 1 else f"{show(bar.start)} to {show(bar.end - 1)}"


def _doubles(base: int, low: float, high: float) -> list[float]:
    """Return ticks at `base` times powers of two, few enough for their labels to fit."""
    first, last = math.ceil(math.log2(low / base)), math.floor(math.log2(high / base))
    step = max(1, math.ceil((last - first + 1) / _MOST_TICKS))
    return [base * 2.0**power for power in range(first, last + 1, step)]
