"""What prepared data consists of, in numbers: counted by each job, added up, and kept as `statistics.json` beside the index."""

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
    "web_words": "words of the web caption, parted by white space",
    "synthetic_characters": "characters of the synthetic caption",
    "synthetic_words": "words of the synthetic caption, parted by white space",
}
"""Names of the histograms and their units."""

# Bins are exact below this; above, sixteen of equal width lie between a power of two and the next.
_EXACT = 32


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values occur that are integers from 0. Bins are the same for all histograms, so that two can be added.

    Attributes:
        count: number of values.
        total: their sum.
        low: the smallest, 0 where there is none.
        high: the largest.
        bins: `(first value of the bin, number of values in it)` in order, without empty bins; `bin_end` says where it ends.
    """

    count: int = 0
    total: int = 0
    low: int = 0
    high: int = 0
    bins: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_values(cls, values: NDArray[Any]) -> "Histogram":
        """Of integers from 0, in any order."""
        if not len(values):
            return cls()
        numbers = values.astype(np.int64)
        # 16 bins to an octave: the five highest bits say which.
        shifts = np.maximum(np.frexp(numbers.astype(np.float64))[1] - 5, 0)
        starts, counts = np.unique((numbers >> shifts) << shifts, return_counts=True)
        bins = tuple(zip(starts.tolist(), counts.tolist(), strict=True))
        return cls(len(numbers), int(numbers.sum()), int(numbers.min()), int(numbers.max()), bins)

    @property
    def mean(self) -> float:
        """Of the values themselves, not of the bins; 0 where there is none."""
        return self.total / max(self.count, 1)

    def merge(self, other: "Histogram") -> "Histogram":
        """Of the values of both."""
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

    def quantile(self, share: float) -> int:
        """A value that `share` of all values, from 0 to 1, do not exceed: exact to the bin, whose last value it is."""
        wanted, seen = share * self.count, 0
        for start, count in self.bins:
            seen += count
            if seen >= wanted:
                return min(bin_end(start) - 1, self.high)
        return self.high


def bin_end(start: int) -> int:
    """First value after the bin that begins at `start`."""
    return start + 1 if start < _EXACT else start + (1 << (start.bit_length() - 5))


@dataclass(frozen=True, slots=True)
class SplitStatistics:
    """One split, or one job of it.

    Attributes:
        kept: samples in the index.
        skipped: samples that cannot be used, by reason (`data.shards.records`); a shard that cannot be read at all counts as one.
        filtered: samples that can be used but are not wanted, by reason (`data.prepare.filters`).
        noted: samples in the index that are odd, by reason: such as `interleaved`, of shards that are read in place.
        shards: tasks of the source: shards in place, or parts that are written into shards of their own.
        damaged_shards: of these, those that cannot be read, or not to their end.
        duplicate_images: samples with the image of an earlier one, byte for byte, whether a filter drops them or not.
        duplicate_captions: likewise samples with the web caption of an earlier one.
        identical_captions: likewise samples whose web and synthetic caption are the same.
        histograms: of the kept samples, by the names in `MEASURES`.
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
        """Of the samples of both."""
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
        """Samples that cannot be used. A damaged shard counts as if it lacked as many as the others hold on average."""
        # What stands for a damaged shard among the skips is no sample.
        bad = sum(self.skipped.values()) - self.damaged_shards
        if not self.damaged_shards:
            return bad
        seen = self.kept + sum(self.filtered.values()) + bad
        return bad + self.damaged_shards * max(round(seen / max(self.shards - self.damaged_shards, 1)), 1)


@dataclass(frozen=True, slots=True)
class Example:
    """A sample that was left out or noted.

    Attributes:
        split: it belongs to.
        reason: as it is counted.
        shard: address of the shard in place, or the number of the source's task, from 0.
        key: of the sample, or where it stands when it has none.
        detail: for the one who repairs the source.
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
    """All of prepared data.

    Attributes:
        fingerprint: of the index it belongs to.
        splits: by name.
        examples: the first few of every split and reason.
        notes: counts of the source's own, such as rows of a table that no sample has.
    """

    fingerprint: str
    splits: dict[str, SplitStatistics]
    examples: tuple[Example, ...] = ()
    notes: dict[str, int] = field(default_factory=dict)

    def unusable_fraction(self) -> float:
        """Samples that cannot be used (`SplitStatistics.unusable`), as a share of all; those that filters drop can be."""
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
    """Counts by reason, in the order of the reasons."""
    return {reason: one.get(reason, 0) + other.get(reason, 0) for reason in sorted({*one, *other})}


def first_examples(examples: Iterable[Example]) -> tuple[Example, ...]:
    """The first `EXAMPLES_PER_REASON` of every split and reason."""
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for example in examples:
        seen[example.split, example.reason] += 1
        if seen[example.split, example.reason] <= EXAMPLES_PER_REASON:
            kept.append(example)
    return tuple(kept)
