"""One job of `prepare`: it writes the samples of a task into shards, or scans a shard in place."""

import os
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain, count, islice

import numpy as np

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.prepare.filters import SampleRules
from clips_pipeline.data.prepare.job_files import ROW, JobFiles, JobResult
from clips_pipeline.data.prepare.sample_checker import SampleChecker
from clips_pipeline.data.prepare.watchdog import ENDING, Watch, Watchdog, read_position
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.index import ShardEntry, make_shard_entry
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.tar_file import MAX_HEADERS_IN_SPAN, BadSampleError, Spans, TarFile
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.data.shards.writer import Sample, make_sample, write_samples
from clips_pipeline.data.sources.in_place import TarTask, open_shard
from clips_pipeline.data.sources.join_tasks import JoinTask
from clips_pipeline.data.sources.source import ShardTask
from clips_pipeline.io.atomic import replace_file
from clips_pipeline.io.redact import redact


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
    checker = SampleChecker(
        job.rules,
        job.limits,
        job.files.split,
        shard_name(job.task, job.files.number),
        captions_needed=job.captions_needed,
    )
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


def _set_aside(job: Job, checker: SampleChecker, reason: str) -> tuple[list[ShardEntry], Spans]:
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


def _accepted(task: ShardTask, checker: SampleChecker, watch: Watch) -> Iterator[Record]:
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
        (watch.move if number else watch.begin)(position)
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


def _scan_in_place(task: TarTask, job: Job, checker: SampleChecker, watch: Watch) -> tuple[list[ShardEntry], Spans]:
    try:
        with open_shard(task.address, task.storage, task.limits) as tar:
            return _scan_tar(task, tar, job, checker, watch)
    except BadSampleError as bad:
        checker.skip(bad.skip)
    return [], np.zeros((0, 2), np.int64)


def _scan_tar(
    task: TarTask, tar: TarFile, job: Job, checker: SampleChecker, watch: Watch
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


def shard_name(task: ShardTask | TarTask, number: int) -> str:
    """Return the name of a task's shard in examples: its address without secrets, or its number."""
    return redact(task.address) if isinstance(task, TarTask) else str(number)
