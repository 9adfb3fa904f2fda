"""Statistics of prepared data: counted by each job, added up, and saved as `statistics.json` beside the index."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clips_pipeline.config import read_json, to_mapping
from clips_pipeline.data.prepare.caption_statistics import CaptionStatistics
from clips_pipeline.data.prepare.histogram import Histogram as Histogram
from clips_pipeline.data.prepare.histogram import bin_end as bin_end

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
        histograms: histograms of the kept samples, by the names in `HISTOGRAM_UNITS`; those of captions count the first of
            each kind.
        captions: all captions of the usable samples; not in the file if it `is_plain`.
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
    captions: CaptionStatistics = field(default_factory=CaptionStatistics)

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
            self.captions.merge(other.captions),
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
        mapping = to_mapping(self)
        for name, split in self.splits.items():
            if split.captions.is_plain:
                del mapping["splits"][name]["captions"]
        text = json.dumps(mapping, ensure_ascii=False, separators=(",", ":"))
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
