"""Histograms and counts are the same however the parts are merged."""

from pathlib import Path

import numpy as np
import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.statistics import (
    Example,
    Histogram,
    SplitStatistics,
    Statistics,
    bin_end,
    first_examples,
    load_statistics,
)

VALUES = np.concatenate([np.arange(70), np.random.default_rng(0).integers(0, 1 << 40, 500), [5, 5, 1 << 52]])


def test_every_value_is_counted_in_its_bin() -> None:
    found = Histogram.from_values(VALUES)
    assert sum(count for _, count in found.bins) == found.count == len(VALUES)
    assert (found.total, found.low, found.high) == (sum(VALUES.tolist()), 0, 1 << 52)
    for start, count in found.bins:
        assert count == sum(start <= value < bin_end(start) for value in VALUES.tolist())
        # No bin is wider than 1/16 of its start.
        assert bin_end(start) - start == 1 or (bin_end(start) - start) * 16 <= start
    assert dict(found.bins)[5] == 3


@pytest.mark.parametrize("at", [0, 1, 300, len(VALUES)])
def test_merged_parts_equal_the_whole(at: int) -> None:
    assert Histogram.from_values(VALUES[:at]).merge(Histogram.from_values(VALUES[at:])) == Histogram.from_values(VALUES)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantiles_are_exact_to_the_bin(share: float) -> None:
    found = Histogram.from_values(VALUES).quantile(share)
    assert (found >= VALUES).mean() >= share
    exact = int(np.quantile(VALUES, share, method="inverted_cdf"))
    assert exact <= found <= exact * 17 / 16


def test_empty_histogram() -> None:
    assert Histogram.from_values(np.zeros(0, np.int64)) == Histogram()
    assert Histogram().mean == Histogram().quantile(0.5) == 0


def test_statistics_round_trip(tmp_path: Path) -> None:
    one = SplitStatistics(
        3, {"not_utf8": 1}, {"too_small": 2}, {}, 1, 0, 1, 0, 1, {"image_width": Histogram.from_values(VALUES)}
    )
    two = SplitStatistics(1, {"bad_record": 1, "not_utf8": 4}, noted={"interleaved": 1})
    both = one.merge(two)
    assert both == SplitStatistics(
        4, {"bad_record": 1, "not_utf8": 5}, {"too_small": 2}, {"interleaved": 1}, 1, 0, 1, 0, 1, one.histograms
    )
    made = Statistics("f" * 64, {"train": both}, (Example("train", "not_utf8", "a.tar", "k\u00e9", "<script>"),))
    made.save(tmp_path)
    assert load_statistics(tmp_path) == made


def test_a_missing_or_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"statistics\.json: no such file.*prepare"):
        load_statistics(tmp_path)
    (tmp_path / "statistics.json").write_text('{"fingerprint": "f", "splits": {"train": {"kept": "3"}}}')
    with pytest.raises(ConfigError, match=r"splits\.train\.kept: expected a whole number"):
        load_statistics(tmp_path)


def test_examples_are_the_first_of_every_split_and_reason() -> None:
    many = [Example(split, reason, "0", str(n), "") for n in range(9) for split in ("train", "test") for reason in "ab"]
    kept = first_examples(many)
    assert len(kept) == 20
    assert {example.key for example in kept} == set("01234")
