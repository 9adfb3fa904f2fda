"""Bars against values counted one by one."""

import re

import numpy as np
import pytest
from tests.unit.reports.test_page import Page

from clips_pipeline.reports.charts import bars, histogram_chart, octave_bars
from clips_pipeline.shards.statistics import Histogram

VALUES = np.random.default_rng(0).integers(0, 200, 1_000)


@pytest.mark.parametrize("values", [VALUES, np.array([0]), np.array([77, 77, 78]), np.arange(10), VALUES * 1_000])
@pytest.mark.parametrize("limit", [None, 1, 77, 126, 5_000])
def test_every_value_is_in_one_bar_and_none_straddles_the_limit(values: np.ndarray, limit: int | None) -> None:
    found = bars(values, limit)
    assert sum(bar.count for bar in found) == len(values)
    for bar in found:
        assert bar.count == sum(bar.start <= value < bar.end for value in values.tolist())
        assert not bar.beyond
        if limit is not None:
            assert bar.end <= limit + 1 or bar.start > limit
    assert len(found) <= 42
    assert len({bar.end - bar.start for bar in found[1:]}) <= 1


def test_what_is_absurdly_large_goes_into_the_last_bar() -> None:
    values = np.array([*range(50), 160, 1_000_000])
    found = bars(values, 77, 154)
    assert found[-1].count == 2
    assert found[-1].beyond
    assert 77 < found[-1].start <= 154 < found[-1].end
    assert sum(bar.count for bar in found) == 52
    assert "and more: 2<" in histogram_chart(found, "t", limit=77)


def test_octave_bars_are_sums_of_whole_bins() -> None:
    values = np.concatenate([np.arange(70), np.random.default_rng(1).integers(0, 1 << 30, 500)])
    found = octave_bars(Histogram.of(values))
    assert sum(bar.count for bar in found) == len(values)
    for bar in found:
        assert bar.count == sum(bar.start <= value < bar.end for value in values.tolist())
    assert [bar.start for bar in octave_bars(Histogram.of(np.arange(64, 128)))] == [64, 80, 96, 112]


@pytest.mark.parametrize("doubling", [None, 1, 1000])
@pytest.mark.parametrize("values", [VALUES, np.array([0]), np.array([64, 64]), np.array([1, 1 << 40])])
def test_bars_lie_within_the_chart_and_are_as_high_as_they_are_many(values: np.ndarray, doubling: int | None) -> None:
    drawn = octave_bars(Histogram.of(values)) if doubling else bars(values, 77)
    svg = histogram_chart(drawn, '"<t>"', limit=None if doubling else 77, doubling=doubling)
    rects = [
        [float(number) for number in found]
        for found in re.findall(r'x="(-?[\d.]+)" y="(-?[\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    ]
    assert len(rects) == len(drawn)
    most = max(bar.count for bar in drawn)
    for (x, y, width, height), bar in zip(rects, drawn, strict=True):
        assert x >= 0
        assert x + width <= 301
        assert y >= 0
        assert height == pytest.approx(max(106 * bar.count / most, 1), abs=0.06)
    for x in re.findall(r'<text x="([\d.-]+)"', svg):
        assert 0 <= float(x) <= 300
    label = {name: value for tag, name, value in Page(svg).attributes if tag == "svg"}["aria-label"]
    assert label is not None
    assert label.startswith('"<t>": histogram of')


def test_bars_above_the_limit_are_marked_as_cut() -> None:
    svg = histogram_chart(bars(np.array([76, 77, 78, 79]), 77), "t", limit=77, limit_name="77 ids")
    assert svg.count('class="cut"') >= 1
    cut = re.findall(r'class="cut".*?<title>(.*?): (\d+)</title>', svg)
    assert sum(int(count) for _, count in cut) == 2
    assert "77 ids" in svg
