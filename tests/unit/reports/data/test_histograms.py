"""Histogram bars against values counted one by one."""

import re

import numpy as np
import pytest
from tests.unit.reports.test_page import Page

from clips_pipeline.data.prepare.statistics import Histogram
from clips_pipeline.reports.data.histograms import Bar, bars, histogram_chart, octave_bars

VALUES = np.random.default_rng(0).integers(0, 200, 1_000)


@pytest.mark.parametrize("values", [VALUES, np.array([0]), np.array([77, 77, 78]), np.arange(10), VALUES * 1_000])
@pytest.mark.parametrize("limit", [None, 1, 77, 126, 5_000])
def test_every_value_is_in_one_bar_and_none_straddles_the_limit(values: np.ndarray, limit: int | None) -> None:
    found = bars(values, limit)
    assert sum(bar.count for bar in found) == len(values)
    for bar in found:
        assert bar.count == sum(bar.start <= value < bar.end for value in values.tolist())
        assert not bar.open_ended
        if limit is not None:
            assert bar.end <= limit + 1 or bar.start > limit
    assert len(found) <= 42
    assert len({bar.end - bar.start for bar in found[1:]}) <= 1


def test_outliers_are_in_the_last_bar() -> None:
    values = np.array([*range(50), 160, 1_000_000])
    found = bars(values, 77, 154)
    assert found[-1].count == 2
    assert found[-1].open_ended
    assert 77 < found[-1].start <= 154 < found[-1].end
    assert sum(bar.count for bar in found) == 52
    assert "or more: 2</title>" in histogram_chart(found, "t", limit=77)


def test_octave_bars_are_sums_of_whole_bins() -> None:
    values = np.concatenate([np.arange(70), np.random.default_rng(1).integers(0, 1 << 30, 500)])
    found = octave_bars(Histogram.from_values(values))
    assert sum(bar.count for bar in found) == len(values)
    for bar in found:
        assert bar.count == sum(bar.start <= value < bar.end for value in values.tolist())
    assert [bar.start for bar in octave_bars(Histogram.from_values(np.arange(64, 128)))] == [64, 80, 96, 112]


BAR = re.compile(r'<title>(.*?): ([\d,]+)</title><path d="(.*?)"[^>]*fill: (.*?)"')


def drawn_bars(svg: str) -> list[tuple[int, float, float, float, str]]:
    """Return count, left, right, height and color of each bar."""
    found = []
    for _, count, path, color in BAR.findall(svg):
        points = [[float(number) for number in pair.split()] for pair in re.split("[MLz]", path) if pair.strip()]
        across, up = zip(*points, strict=True)
        found.append((int(count.replace(",", "")), min(across), max(across), max(up) - min(up), color))
    return found


@pytest.mark.parametrize("doubling", [None, 1, 1000])
@pytest.mark.parametrize("values", [VALUES, np.array([0]), np.array([64, 64]), np.array([1, 1 << 40])])
def test_bars_are_within_the_chart_and_proportional_to_counts(values: np.ndarray, doubling: int | None) -> None:
    chart = octave_bars(Histogram.from_values(values)) if doubling else bars(values, 77)
    svg = histogram_chart(chart, '"<t>"', limit=None if doubling else 77, doubling=doubling)
    found = drawn_bars(svg)
    assert [count for count, *_ in found] == [bar.count for bar in chart]
    most = max(bar.count for bar in chart)
    full = max(height for *_, height, _ in found)
    for count, left, right, height, _ in found:
        assert 0 <= left < right <= 288
        assert height == pytest.approx(full * max(count / most, 0.01), rel=1e-3)
    page = Page(svg)
    label = {name: value for tag, name, value in page.attributes if tag == "svg"}["aria-label"]
    assert label is not None
    assert label.startswith('"<t>": histogram of')
    assert set(page.tags) <= {"svg", "g", "path", "rect", "defs", "clippath", "use", "text", "title"}


def test_bars_above_the_limit_are_marked() -> None:
    svg = histogram_chart(bars(np.array([76, 77, 78, 79]), 77), "t", limit=77, unit="ids")
    colors = [color for _, left, right, _, color in drawn_bars(svg)]
    assert colors == ["var(--series-1)", "var(--series-2)"]
    assert ">77 ids<" in svg


def test_charts_are_reproducible_with_unique_ids() -> None:
    first, second = (histogram_chart(bars(VALUES), title) for title in ("a", "b"))
    assert first == histogram_chart(bars(VALUES), "a")
    names = [set(re.findall(r' id="(.*?)"', svg)) for svg in (first, second)]
    assert names[0]
    assert not names[0] & names[1]
    assert set(re.findall(r'(?:url\(|href=")#(\w+)', first)) <= names[0]


def test_hostile_text_in_a_figure_is_escaped() -> None:
    foreign = "</text></svg><script>1</script>\ufffe\x00"
    svg = histogram_chart([Bar(0, 1, 1)], foreign, show=lambda value: foreign)
    page = Page(svg)
    assert "script" not in page.tags
    assert "</text></svg><script>1</script>[U+FFFE][U+0000]: 1" in page.text
