"""Checks, filters, counts and measurements of the samples of a job."""

import hashlib
from collections import Counter
from collections.abc import Iterator

import numpy as np

from clips_pipeline.data.limits import SampleLimits
from clips_pipeline.data.prepare.caption_statistics import CaptionCount, CaptionCounter
from clips_pipeline.data.prepare.filters import SampleRules, has_identical_captions
from clips_pipeline.data.prepare.job_files import ROW, Rows
from clips_pipeline.data.prepare.statistics import (
    EXAMPLES_PER_REASON,
    HISTOGRAM_UNITS,
    Example,
    Histogram,
    SplitStatistics,
)
from clips_pipeline.data.prepare.validate import validate_record
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.io.redact import redact

_DAMAGE_REASONS = (
    records.UNREADABLE_SHARD,
    records.TRUNCATED_SHARD,
    records.SHARD_TOO_SLOW,
    records.SHARD_KILLED,
)


class SampleChecker:
    """Validation, filters, counts and measurements for the samples of one job.

    Args:
        rules: which samples are used.
        limits: limits on a sample.
        split: split of the job, for examples.
        shard: name of its shard, for examples.
        captions_needed: whether a sample without web and synthetic caption is bad.

    Attributes:
        rows: values of the accepted samples, in the order of `ROW`.
        keys: keys of the accepted samples.
        examples: examples of the others.
    """

    def __init__(
        self, rules: SampleRules, limits: SampleLimits, split: Split, shard: str, *, captions_needed: bool
    ) -> None:
        self.rows: list[tuple[int, ...]] = []
        self.keys: list[str] = []
        self.examples: list[Example] = []
        self._rules, self._limits, self._captions_needed = rules, limits, captions_needed
        self._split, self._shard = split, shard
        self._seen: set[str] = set()
        self._skipped: Counter[str] = Counter()
        self._filtered: Counter[str] = Counter()
        self._odd: Counter[str] = Counter()
        self._identical, self._captions = 0, CaptionCounter()

    def accept(self, item: Record | Skip) -> Record | None:
        """Return the sample if it is used; otherwise count it and return None."""
        if isinstance(item, Skip):
            # A sample without a row in the tables is intact, so it counts as filtered and not as damage.
            self._count(self._filtered if item.reason == records.NO_TABLE_ROW else self._skipped, item)
            return None
        try:
            return self._accept(item)
        except Exception as error:
            self.skip(make_skip(error, item.key))
            return None

    def _accept(self, item: Record) -> Record | None:
        if item.key in self._seen:
            self.skip(Skip(records.DUPLICATE_KEY, item.key, "an earlier sample of this split has this key"))
            return None
        size = validate_record(item, self._limits, captions_needed=self._captions_needed)
        if isinstance(size, Skip):
            self.skip(size)
            return None
        identical = has_identical_captions(item)
        # The key of a filtered sample may occur again.
        fault = self._rules.filters.find_fault(item, size)
        if fault is not None:
            self._identical += identical
            self._count(self._filtered, Skip(fault[0], item.key, fault[1]))
            return None
        row = (*_hashes(item), *size, len(item.image), *_lengths(item))
        captions = CaptionCount.of(item)
        # Nothing is counted before everything that may fail is done.
        self._captions.add(captions)
        for reason, text in captions.oddities.items():
            self.count_odd(Skip(reason, item.key, repr(text[:80])))
        self._identical += identical
        self._seen.add(item.key)
        self.keys.append(item.key)
        self.rows.append(row)
        return item

    def skip(self, skip: Skip) -> None:
        """Count a sample that cannot be used."""
        self._count(self._skipped, skip)

    def count_odd(self, skip: Skip) -> None:
        """Count a sample that is used although it has an unusual property."""
        self._count(self._odd, skip)

    def statistics(self, rows: Rows) -> SplitStatistics:
        """Return the statistics of all samples so far."""
        damaged = any(reason in self._skipped for reason in _DAMAGE_REASONS)
        return SplitStatistics(
            len(rows),
            dict(sorted(self._skipped.items())),
            dict(sorted(self._filtered.items())),
            dict(sorted(self._odd.items())),
            shards=1,
            damaged_shards=int(damaged),
            identical_captions=self._identical,
            histograms=histograms(rows),
            captions=self._captions.statistics(),
        )

    def _count(self, counts: Counter[str], skip: Skip) -> None:
        counts[skip.reason] += 1
        if counts[skip.reason] <= EXAMPLES_PER_REASON:
            self.examples.append(make_example(self._split, self._shard, skip))


def histograms(rows: Rows) -> dict[str, Histogram]:
    """Return the histograms of rows of the type `ROW`."""
    # int64, because width times 1000 may exceed 32 bits.
    columns = {name: rows[name].astype(np.int64) for name in HISTOGRAM_UNITS if name in ROW.names}  # type: ignore[operator]
    columns["image_aspect"] = columns["image_width"] * 1000 // np.maximum(columns["image_height"], 1)
    return {name: Histogram.from_values(columns[name]) for name in HISTOGRAM_UNITS}


def make_example(split: Split, shard: str, skip: Skip) -> Example:
    """Return an example for the statistics, with bytes that are not UTF-8 escaped for logs and JSON."""
    texts = (
        text.encode("utf-8", "backslashreplace").decode()
        for text in (shard, skip.key[:300], redact(skip.detail[:100_000])[:300])
    )
    return Example(split, skip.reason, *texts)


def _hashes(record: Record) -> Iterator[int]:
    # Empty captions must not count as duplicates of each other.
    caption = record.web_caption.strip() or f"\n{record.key}"
    for content in (record.key.encode(), record.image, caption.encode()):
        # 64 bits: a billion values contain an accidental equal pair with a probability of about 1/40.
        yield int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _lengths(record: Record) -> Iterator[int]:
    for caption in (record.web_caption, record.synthetic_caption):
        yield len(caption)
        yield len(caption.split())
