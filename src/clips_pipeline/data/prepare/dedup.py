"""Deduplication across jobs in bounded memory.

Hashes are partitioned by their first bits into files that fit in memory; sorting a partition brings equal hashes
together. The duplicates are then partitioned by job, because they are read job by job. A job with duplicates gets a
second result without them: its shards are copied, or the spans of a shard in place are left out.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.prepare import filters
from clips_pipeline.data.prepare.executor import MapFunction
from clips_pipeline.data.prepare.job import Job, shard_name, write_shards
from clips_pipeline.data.prepare.job_files import JobFiles, JobResult
from clips_pipeline.data.prepare.sample_checker import histograms, make_example
from clips_pipeline.data.prepare.statistics import EXAMPLES_PER_REASON, SplitStatistics, add_counts
from clips_pipeline.data.shards import records, sample_offsets
from clips_pipeline.data.shards.index import ShardEntry, digest_keys
from clips_pipeline.data.shards.records import Skip
from clips_pipeline.data.shards.tar_file import TarFile
from clips_pipeline.data.shards.writer import WEB_FIELD, Sample
from clips_pipeline.data.sources.in_place import TarTask

_DETAILS = {
    records.DUPLICATE_KEY: "an earlier sample of this split has this key; for shards that repeat keys, set keys_repeat",
    filters.DUPLICATE_IMAGE: "an earlier sample of this split has the same image",
    filters.DUPLICATE_CAPTION: "an earlier sample of this split has the same web caption",
}


# 16 bytes each, and the same again for sorting: about 1 GB in total.
HASHES_IN_MEMORY = 16_000_000
# Limit of partition files that are open at the same time.
_MAX_PARTITIONS = 512
_JOBS_PER_FILE = 256

_HASH = np.dtype([("value", "<u8"), ("job", "<u4"), ("place", "<u4")])
_DUPLICATE = np.dtype([("job", "<u4"), ("place", "<u4")])


def drop_duplicates(jobs: list[Job], map_jobs: MapFunction, folder: Path) -> tuple[list[JobFiles], SplitStatistics]:
    """Drop samples that repeat an earlier one: always by key, by image or web caption if a filter is set.

    Returns:
        The files of each job's final result, and the number of duplicates.
    """
    shutil.rmtree(folder, ignore_errors=True)
    files = [job.files for job in jobs]
    drops: dict[str, DuplicateRows] = {}

    def excluded(job: int) -> NDArray[np.int64]:
        places = [found.rows_of(job) for found in drops.values()]
        return np.concatenate(places) if places else np.zeros(0, np.int64)

    counts = {}
    # In this order: a sample that is dropped for its key must not count as an earlier copy of an image.
    drops[records.DUPLICATE_KEY] = find_duplicates(files, "key", folder / "key", excluded=excluded)
    rules = jobs[0].rules.filters if jobs else filters.FilterConfig()
    for column, wanted, reason in (
        ("image", rules.duplicate_images, filters.DUPLICATE_IMAGE),
        ("caption", rules.duplicate_captions, filters.DUPLICATE_CAPTION),
    ):
        found = find_duplicates(files, column, folder / column, excluded=excluded)
        counts[column] = found.total
        if wanted:
            drops[reason] = found
    second_jobs: dict[int, DropJob] = {}
    if any(found.total for found in drops.values()):
        for number, job in enumerate(jobs):
            places = {reason: found.rows_of(number) for reason, found in drops.items()}
            if any(map(len, places.values())):
                shard, in_place = shard_name(job.task, number), isinstance(job.task, TarTask)
                into = replace(job.files, dropped=True)
                second_jobs[number] = DropJob(
                    job.files, into, shard, in_place, job.samples_per_shard, places, job.limits
                )
    map_jobs(run_drop_job, list(second_jobs.values()))
    shutil.rmtree(folder)
    kept = [second_jobs[number].into if number in second_jobs else job.files for number, job in enumerate(jobs)]
    return kept, SplitStatistics(duplicate_images=counts["image"], duplicate_captions=counts["caption"])


class DuplicateRows:
    """Row numbers of duplicates by job, stored on disk.

    Attributes:
        total: number of duplicates.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder, self.total = folder, 0
        self._group = -1
        self._places: NDArray[np.void] = np.zeros(0, _DUPLICATE)

    def add(self, jobs: NDArray[Any], places: NDArray[Any]) -> None:
        """Add rows, in any order."""
        found = np.empty(len(jobs), _DUPLICATE)
        found["job"], found["place"] = jobs, places
        self.total += len(found)
        groups = found["job"] // _JOBS_PER_FILE
        for group in np.unique(groups).tolist():
            with self._file(group).open("ab") as file:
                file.write(found[groups == group].tobytes())

    def rows_of(self, job: int) -> NDArray[np.int64]:
        """Return the rows of a job, sorted. Fast when jobs are requested in order."""
        group = job // _JOBS_PER_FILE
        if group != self._group:
            file = self._file(group)
            found = np.fromfile(file, _DUPLICATE) if file.is_file() else np.zeros(0, _DUPLICATE)
            self._group, self._places = group, np.sort(found, order=("job", "place"))
        first, end = np.searchsorted(self._places["job"], [job, job + 1])
        return self._places["place"][first:end].astype(np.int64)

    def _file(self, group: int) -> Path:
        return self._folder / f"{group:06d}"


def find_duplicates(
    jobs: list[JobFiles],
    column: str,
    folder: Path,
    *,
    excluded: Callable[[int], NDArray[np.int64]],
    hashes_in_memory: int = HASHES_IN_MEMORY,
) -> DuplicateRows:
    """Return the rows whose value in `column` occurs earlier in the same job or in an earlier job.

    Args:
        jobs: finished jobs, in order; their numbers are positions in this list.
        column: `key`, `image` or `caption` of `job_files.ROW`.
        folder: folder for temporary files; must not exist.
        excluded: function that returns the rows of a job to ignore.
        hashes_in_memory: number of hashes to hold in memory.
    """
    folder.mkdir(parents=True)
    total = sum(len(job.load_rows()) for job in jobs)
    bits = min(max(-(-total // hashes_in_memory) - 1, 0).bit_length(), _MAX_PARTITIONS.bit_length() - 1)
    parts = [folder / f"part-{number:04d}" for number in range(1 << bits)]
    with ExitStack() as stack:
        files = [stack.enter_context(part.open("wb")) for part in parts]
        for number, job in enumerate(jobs):
            values = job.load_rows()[column]
            places = np.delete(np.arange(len(values)), excluded(number))
            counted = np.empty(len(places), _HASH)
            counted["value"], counted["job"], counted["place"] = values[places], number, places
            for at, some in _partition(counted, bits):
                files[at].write(some.tobytes())
    found = DuplicateRows(folder / "found")
    for part in parts:
        hashes: NDArray[np.void] = np.fromfile(part, _HASH)
        part.unlink()
        # Stable, so that equal hashes stay in the order of jobs and rows.
        order = np.argsort(hashes["value"], kind="stable")
        values = hashes["value"][order]
        repeats = hashes[order[1:][values[1:] == values[:-1]]]
        found.add(repeats["job"], repeats["place"])
    return found


def _partition(hashes: NDArray[np.void], bits: int) -> Iterator[tuple[int, NDArray[np.void]]]:
    if bits == 0:
        yield 0, hashes
        return
    part = (hashes["value"] >> np.uint64(64 - bits)).astype(np.int64)
    order = np.argsort(part, kind="stable")
    edges = np.searchsorted(part[order], np.arange((1 << bits) + 1))
    for number in range(1 << bits):
        if edges[number] < edges[number + 1]:
            yield number, hashes[order[edges[number] : edges[number + 1]]]


@dataclass(frozen=True, slots=True)
class DropJob:
    """Samples to drop from one finished job.

    Attributes:
        files: files of the job's first result.
        into: files of its second result.
        shard: name of the shard in examples.
        in_place: whether the shard is read in place.
        samples_per_shard: as in the job.
        places: rows to drop, by reason.
        limits: as in the job.
    """

    files: JobFiles
    into: JobFiles
    shard: str
    in_place: bool
    samples_per_shard: int
    places: dict[str, NDArray[np.int64]]
    limits: SampleLimits = DEFAULT_LIMITS

    @property
    def is_done(self) -> bool:
        """Whether the result exists."""
        return self.into.is_done

    @property
    def progress(self) -> None:
        """None: it copies bytes that were checked before, so it needs no watchdog."""


def run_drop_job(job: DropJob) -> None:
    """Write the second result of a job; files of an earlier attempt are replaced."""
    if job.is_done:
        return
    result = job.files.load()
    rows, keys = job.files.load_rows_and_keys()
    keep = np.ones(len(rows), np.bool_)
    counts: dict[str, int] = {}
    examples = list(result.examples)
    for reason, places in job.places.items():
        keep[places] = False
        if len(places):
            counts[reason] = len(places)
        for place in places[:EXAMPLES_PER_REASON].tolist():
            examples.append(make_example(job.files.split, job.shard, Skip(reason, keys[place], _DETAILS[reason])))
    kept = [key for key, use in zip(keys, keep.tolist(), strict=True) if use]
    if job.in_place:
        places = sample_offsets.from_bytes(job.files.spans.read_bytes())[keep]
        shards = [replace(shard, samples=len(kept), keys_digest=digest_keys(kept)) for shard in result.shards if kept]
    else:
        good = _remaining_samples(job, result.shards, iter(keep.tolist()))
        shards, places = write_shards(good, job.into, job.samples_per_shard, job.limits)
    found = result.statistics
    bad = {reason: count for reason, count in counts.items() if reason == records.DUPLICATE_KEY}
    statistics = replace(
        found,
        kept=len(kept),
        skipped=add_counts(found.skipped, bad),
        filtered=add_counts(found.filtered, {reason: n for reason, n in counts.items() if reason not in bad}),
        histograms=histograms(rows[keep]),
    )
    job.into.save(JobResult(tuple(shards), statistics, tuple(examples)), places)


def _remaining_samples(job: DropJob, shards: tuple[ShardEntry, ...], keep: Iterator[bool]) -> Iterator[Sample]:
    """Yield the remaining samples of written shards without parsing them."""
    for shard in shards:
        with TarFile(job.files.shard_file(shard.path), job.limits) as tar:
            for row in range(shard.samples):
                if next(keep):
                    found = tar.read(row)
                    three = {found.extension: found.image, WEB_FIELD: found.text, "json": found.json}
                    yield {"__key__": found.key} | {e: content for e, content in three.items() if content is not None}
