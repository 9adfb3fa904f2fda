"""Statistics of prepared data: counted by each job, added up, and saved as `statistics.json` beside the index."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import read_json, to_mapping

STATISTICS_FILE = "statistics.json"
EXAMPLES_PER_REASON = 5

HISTOGRAM_UNITS = {
    "image_width": "pixels",
    "image_height": "pixels",
    "image_aspect": "width per 1,000 of height",
    "image_bytes": "bytes, encoded",
    "web_characters": "characters of the web caption",
    "web_words": "words of the web caption, separated by white space",
    "synthetic_characters": "characters of the synthetic caption",
    "synthetic_words": "words of the synthetic caption, separated by white space",
}
"""Names of the histograms and their units."""

# Smaller values have bins of their own; above, there are 16 bins of equal width per octave.
_EXACT = 32


@dataclass(frozen=True, slots=True)
class Histogram:
    """Histogram of non-negative integers. All histograms have the same bins, so they can be merged.

    Attributes:
        count: number of values.
        total: sum of the values.
        low: smallest value; 0 without values.
        high: largest value; 0 without values.
        bins: `(first value of the bin, number of values in it)` in order, without empty bins; `bin_end` gives the end.
    """

    count: int = 0
    total: int = 0
    low: int = 0
    high: int = 0
    bins: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_values(cls, values: NDArray[Any]) -> "Histogram":
        """Return the histogram of non-negative integers."""
        if not len(values):
            return cls()
        numbers = values.astype(np.int64)
        # 16 bins per octave: the five highest bits select the bin.
        shifts = np.maximum(np.frexp(numbers.astype(np.float64))[1] - 5, 0)
        starts, counts = np.unique((numbers >> shifts) << shifts, return_counts=True)
        bins = tuple(zip(starts.tolist(), counts.tolist(), strict=True))
        return cls(len(numbers), int(numbers.sum()), int(numbers.min()), int(numbers.max()), bins)

    @property
    def mean(self) -> float:
        """Exact mean of the values; 0 without values."""
        return self.total / max(self.count, 1)

    def merge(self, other: "Histogram") -> "Histogram":
        """Return the histogram of the values of both."""
        if not self.count or not other.count:
            return self if self.count else other
        bins = dict(self.bins)
        for start, count in other.bins:
            bins[start] = bins.get(start, 0) + count
        return Histogram(
            self.count + other.count,
            self.total + other.total,
            min(self.low, other.low),
            max(self.high, other.high),
            tuple(sorted(bins.items())),
        )

    def quantile(self, fraction: float) -> int:
        """Return the quantile for a `fraction` from 0 to 1, as the last value of its bin."""
        target, seen = fraction * self.count, 0
        for start, count in self.bins:
            seen += count
            if seen >= target:
                return min(bin_end(start) - 1, self.high)
        return self.high


def bin_end(start: int) -> int:
    """Return the first value after the bin that begins at `start`."""
    return start + 1 if start < _EXACT else start + (1 << (start.bit_length() - 5))


@dataclass(frozen=True, slots=True)
class SplitStatistics:
    """Statistics of one split, or of one job.

    Attributes:
        kept: samples in the index.
        skipped: samples that cannot be used, by skip reason (`data.shards.records`); an unreadable shard counts as one.
        filtered: usable samples that a filter drops, by reason (`data.prepare.filters`).
        noted: samples in the index with an unusual property, by reason, such as `interleaved` in shards in place.
        shards: number of tasks of the source: shards in place, or parts that are written into shards.
        damaged_shards: tasks whose shard cannot be read to its end.
        duplicate_images: samples whose image has the same bytes as an earlier one, whether dropped or not.
        duplicate_captions: samples whose web caption equals an earlier one, whether dropped or not.
        identical_captions: samples whose web and synthetic caption are equal, whether dropped or not.
        histograms: histograms of the kept samples, by the names in `HISTOGRAM_UNITS`.
    """

    kept: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    filtered: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)
    shards: int = 0
    damaged_shards: int = 0
    duplicate_images: int = 0
    duplicate_captions: int = 0
    identical_captions: int = 0
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def merge(self, other: "SplitStatistics") -> "SplitStatistics":
        """Return the statistics of the samples of both."""
        names = [name for name in HISTOGRAM_UNITS if name in self.histograms or name in other.histograms]
        return SplitStatistics(
            self.kept + other.kept,
            add_counts(self.skipped, other.skipped),
            add_counts(self.filtered, other.filtered),
            add_counts(self.noted, other.noted),
            self.shards + other.shards,
            self.damaged_shards + other.damaged_shards,
            self.duplicate_images + other.duplicate_images,
            self.duplicate_captions + other.duplicate_captions,
            self.identical_captions + other.identical_captions,
            {
                name: self.histograms.get(name, Histogram()).merge(other.histograms.get(name, Histogram()))
                for name in names
            },
        )

    @property
    def unusable(self) -> int:
        """Samples that cannot be used; a damaged shard is assumed to lack the mean number of samples of the others."""
        # The skip that stands for a damaged shard is not a sample.
        bad = sum(self.skipped.values()) - self.damaged_shards
        if not self.damaged_shards:
            return bad
        seen = self.kept + sum(self.filtered.values()) + bad
        return bad + self.damaged_shards * max(round(seen / max(self.shards - self.damaged_shards, 1)), 1)


@dataclass(frozen=True, slots=True)
class Example:
    """A sample that was left out or noted.

    Attributes:
        split: split of the sample.
        reason: reason under which it is counted.
        shard: address of the shard in place, or number of the source's task, from 0.
        key: key of the sample, or its location if it has no key.
        detail: what to repair.
    """

    split: str
    reason: str
    shard: str
    key: str
    detail: str

    def __str__(self) -> str:
        shard = "" if self.shard == self.key else f" (shard {self.shard})"
        return f"{self.split} {self.reason} {self.key}{shard}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of all prepared data.

    Attributes:
        fingerprint: fingerprint of the index they belong to.
        splits: statistics by split.
        examples: the first examples of every split and reason.
        notes: counts of the source, such as rows of a table that match no sample.
    """

    fingerprint: str
    splits: dict[str, SplitStatistics]
    examples: tuple[Example, ...] = ()
    notes: dict[str, int] = field(default_factory=dict)

    def unusable_fraction(self) -> float:
        """Return the fraction of samples that cannot be used (`SplitStatistics.unusable`); filtered ones are usable."""
        unusable = sum(split.unusable for split in self.splits.values())
        good = sum(split.kept + sum(split.filtered.values()) for split in self.splits.values())
        return unusable / max(unusable + good, 1)

    def save(self, folder: Path) -> None:
        """Write `statistics.json`; the same statistics give the same bytes."""
        text = json.dumps(to_mapping(self), ensure_ascii=False, separators=(",", ":"))
        (folder / STATISTICS_FILE).write_text(text + "\n", encoding="utf-8")


def load_statistics(folder: Path) -> Statistics:
    """Read `statistics.json` of a folder of shards.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    return read_json(Statistics, folder / STATISTICS_FILE, "run `kedro run --pipelines prepare` to make it")


def add_counts(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Add counts by reason, sorted by reason."""
    return {reason: one.get(reason, 0) + other.get(reason, 0) for reason in sorted({*one, *other})}


def first_examples(examples: Iterable[Example]) -> tuple[Example, ...]:
    """Return the first `EXAMPLES_PER_REASON` examples of every split and reason."""
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for example in examples:
        seen[example.split, example.reason] += 1
        if seen[example.split, example.reason] <= EXAMPLES_PER_REASON:
            kept.append(example)
    return tuple(kept)
