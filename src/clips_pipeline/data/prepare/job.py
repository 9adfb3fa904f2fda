"""One job of `prepare`: it writes the samples of a task into shards, or scans a shard in place."""

import hashlib
import os
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain, count, islice

import numpy as np

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.prepare.filters import SampleRules, has_identical_captions
from clips_pipeline.data.prepare.job_files import ROW, JobFiles, JobResult, Rows
from clips_pipeline.data.prepare.statistics import (
    EXAMPLES_PER_REASON,
    HISTOGRAM_UNITS,
    Example,
    Histogram,
    SplitStatistics,
)
from clips_pipeline.data.prepare.validate import validate_record
from clips_pipeline.data.prepare.watchdog import ENDING, Watch, Watchdog, read_position
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.index import ShardEntry, make_shard_entry
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.shards.tar_file import MAX_HEADERS_IN_SPAN, BadSampleError, Spans, TarFile
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.data.shards.writer import Sample, make_sample, write_samples
from clips_pipeline.data.sources.in_place import TarTask, open_shard
from clips_pipeline.data.sources.recaption import JoinTask
from clips_pipeline.data.sources.source import ShardTask
from clips_pipeline.io.atomic import replace_file
from clips_pipeline.io.redact import redact

_DAMAGE_REASONS = (
    records.UNREADABLE_SHARD,
    records.TRUNCATED_SHARD,
    records.SHARD_TOO_SLOW,
    records.SHARD_KILLED,
)


@dataclass(frozen=True, slots=True)
class Job:
    """A task and the files of its result.

    Attributes:
        task: source of the samples.
        captions_needed: whether a sample without web and synthetic caption is bad.
        files: files for shards, rows and result.
        samples_per_shard: limit for shards that are written.
        rules: which samples are used.
        watchdog: bounds on the time; None for data that is made here.
        limits: limits on a sample, those of the source.
    """

    task: ShardTask | TarTask
    captions_needed: bool
    files: JobFiles
    samples_per_shard: int
    rules: SampleRules = field(default_factory=SampleRules)
    watchdog: Watchdog | None = None
    limits: SampleLimits = DEFAULT_LIMITS

    @property
    def is_done(self) -> bool:
        """Whether the result exists."""
        return self.files.is_done

    @property
    def progress(self) -> str | None:
        """What the watchdog has noted so far; None without a watchdog."""
        if self.watchdog is None:
            return None
        return f"{shard_name(self.task, self.files.number)}: {read_position(self.files.notes)}"

    def watch(self) -> AbstractContextManager[Watch]:
        """Return the watch over an attempt at this job."""
        return nullcontext(Watch()) if self.watchdog is None else self.watchdog.watch(self.files.notes)


def run_job(job: Job) -> None:
    """Run a job and write its result; files of an earlier attempt are replaced.

    Raises:
        ConfigError: the folder does not exist on this machine.
        StorageError: a shard cannot be reached, and its storage has `unreachable: stop`.
    """
    if not job.files.rows.parent.is_dir():
        raise ConfigError(
            f"{job.files.rows.parent}: no such folder on {os.uname().nodename}; all workers need the folder of shards on a "
            "file system that they share"
        )
    if job.is_done:
        return
    checker = SampleChecker(job)
    with job.watch() as watch:
        if watch.set_aside is not None:
            shards, spans = _set_aside(job, checker, watch.set_aside)
        elif isinstance(job.task, TarTask):
            shards, spans = _scan_in_place(job.task, job, checker, watch)
        else:
            good = (make_sample(record) for record in _accepted(job.task, checker, watch))
            shards, spans = write_shards(good, job.files, job.samples_per_shard, job.limits)
        watch.reach(ENDING)
        rows = np.array(checker.rows, ROW)
        job.files.save_rows(rows, checker.keys)
        job.files.save(JobResult(tuple(shards), checker.statistics(rows), tuple(checker.examples)), spans)


def _set_aside(job: Job, checker: "SampleChecker", reason: str) -> tuple[list[ShardEntry], Spans]:
    """Count a shard of which nothing is used."""
    name = shard_name(job.task, job.files.number)
    why = (
        "it took longer than watchdog.shard_seconds"
        if reason == records.SHARD_TOO_SLOW
        else "two processes were killed"
    )
    checker.skip(Skip(reason, name, f"{why}; read it by itself to see why, or leave it out of the source"))
    if isinstance(job.task, JoinTask):
        # Otherwise `notes` would read the shard in this process.
        job.task.save_matched([])
    return [], np.zeros((0, 2), np.int64)


def _accepted(task: ShardTask, checker: "SampleChecker", watch: Watch) -> Iterator[Record]:
    """Yield the samples that are used. The source cannot pass a sample that it cannot read; so its shard ends there."""
    items = iter(task.records())
    for number in count():
        if (reason := watch.fault(position := f"reading sample {number}")) is not None:
            whole = records.SHARD_TOO_SLOW if reason == records.TOO_SLOW else records.SHARD_KILLED
            checker.skip(Skip(whole, f"sample {number}", "the source cannot read it; the samples before it are used"))
            if isinstance(items, Generator):
                items.close()
            return
        # The first one includes opening the shard, which may be remote.
        (watch.begin if number else watch.reach)(position)
        item = next(items, None)
        if item is None:
            watch.reach(ENDING)
            return
        position = f"sample {number}"
        if isinstance(item, Record) and (reason := watch.fault(position)) is not None:
            checker.skip(Skip(reason, item.key, _STOPPED[reason]))
            continue
        watch.begin(position)
        record = checker.accept(item)
        watch.end()
        if record is not None:
            yield record


_STOPPED = {
    records.TOO_SLOW: "it took longer than watchdog.sample_seconds",
    records.KILLED: "two processes were killed while they read and checked it",
}


def write_shards(
    good: Iterator[Sample], files: JobFiles, samples_per_shard: int, limits: SampleLimits = DEFAULT_LIMITS
) -> tuple[list[ShardEntry], Spans]:
    """Write all samples into as many shards as needed; return their entries and the spans of the samples.

    Args:
        good: the samples.
        files: files of the job.
        samples_per_shard: limit per tar file.
        limits: limits on a sample.
    """
    shards: list[ShardEntry] = []
    spans: list[Spans] = [np.zeros((0, 2), np.int64)]
    while (first := next(good, None)) is not None:
        name = files.shard(len(shards))
        file = files.shard_file(name)
        with replace_file(file) as temporary:
            shards.append(write_samples(temporary, chain([first], islice(good, samples_per_shard - 1)), name))
        with TarFile(file, limits) as tar:
            spans.append(tar.spans)
    return shards, np.concatenate(spans)


def _scan_in_place(task: TarTask, job: Job, checker: "SampleChecker", watch: Watch) -> tuple[list[ShardEntry], Spans]:
    try:
        with open_shard(task.address, task.storage, task.limits) as tar:
            return _scan_tar(task, tar, job, checker, watch)
    except BadSampleError as bad:
        checker.skip(bad.skip)
    return [], np.zeros((0, 2), np.int64)


def _scan_tar(
    task: TarTask, tar: TarFile, job: Job, checker: "SampleChecker", watch: Watch
) -> tuple[list[ShardEntry], Spans]:
    used = np.zeros(len(tar.keys), np.bool_)
    for row, key in enumerate(tar.keys):
        if row in tar.interleaved:
            odd = Skip(records.INTERLEAVED, key, "other samples' files stand between its own")
            if job.rules.interleaved == "leave_out":
                checker.skip(odd)
                continue
        if row in tar.scattered:
            checker.skip(_scattered_skip(key, interleaved=row in tar.interleaved))
            continue
        if row in tar.interleaved:
            checker.count_odd(odd)
        if (reason := watch.fault(position := f"sample {row}")) is not None:
            checker.skip(Skip(reason, key, _STOPPED[reason]))
            continue
        watch.begin(position)
        try:
            used[row] = checker.accept(task.read(tar, row)) is not None
        except Exception as error:
            checker.skip(make_skip(error, key))
        watch.end()
    watch.reach(ENDING)
    damage = tar.find_damage()
    if damage is not None:
        checker.skip(Skip(records.TRUNCATED_SHARD, redact(task.address), damage))
    spans = tar.spans[used]
    if not used.any():
        return [], spans
    return [make_shard_entry(tar.path, task.address, checker.keys)], spans


def _scattered_skip(key: str, *, interleaved: bool) -> Skip:
    """Return the skip of a sample that would be slow to read, the slower the more samples its shard has."""
    if not interleaved:
        return Skip(records.TOO_LARGE, key, f"more than {MAX_HEADERS_IN_SPAN} files; remove those that are not used")
    far = f"more than {MAX_HEADERS_IN_SPAN} files of other samples stand between its own"
    return Skip(records.INTERLEAVED, key, f"{far}; copy the shard in order (source.img2dataset.rewrite: true)")


class SampleChecker:
    """Validation, filters, counts and measurements for the samples of one job.

    Attributes:
        rows: values of the accepted samples, in the order of `ROW`.
        keys: keys of the accepted samples.
        examples: examples of the others.
    """

    def __init__(self, job: Job) -> None:
        self.rows: list[tuple[int, ...]] = []
        self.keys: list[str] = []
        self.examples: list[Example] = []
        self._rules, self._limits, self._captions_needed = job.rules, job.limits, job.captions_needed
        self._split = job.files.split
        self._shard = shard_name(job.task, job.files.number)
        self._seen: set[str] = set()
        self._skipped: Counter[str] = Counter()
        self._filtered: Counter[str] = Counter()
        self._odd: Counter[str] = Counter()
        self._identical = 0

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
        # Nothing is counted before everything that may fail is done.
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
        )

    def _count(self, counts: Counter[str], skip: Skip) -> None:
        counts[skip.reason] += 1
        if counts[skip.reason] <= EXAMPLES_PER_REASON:
            self.examples.append(make_example(self._split, self._shard, skip))


def shard_name(task: ShardTask | TarTask, number: int) -> str:
    """Return the name of a task's shard in examples: its address without secrets, or its number."""
    return redact(task.address) if isinstance(task, TarTask) else str(number)


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
        for text in (shard, skip.key, redact(skip.detail[:3000])[:300])
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
