"""One piece of a split to tar files, in a process of its own."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing import parent_process
from pathlib import Path

from clips_pipeline.shards import check, records
from clips_pipeline.shards.index import ShardEntry
from clips_pipeline.shards.records import Record, Skip
from clips_pipeline.shards.sources.source import ShardTask, Split
from clips_pipeline.shards.writer import write_shard

EXAMPLES_PER_TASK = 20


@dataclass(frozen=True, slots=True)
class Job:
    """A task and where its shards go.

    Attributes:
        task: gives the samples.
        split: the split they belong to.
        number: of the task within its split, from 0.
        folder: of the shards of this split, while they are being made.
        samples_per_shard: a shard that is full is followed by another.
        exclude: keys that earlier tasks of the split have used.
    """

    task: ShardTask
    split: Split
    number: int
    folder: Path
    samples_per_shard: int
    exclude: frozenset[str] = frozenset()


@dataclass(slots=True)
class JobResult:
    """What came of a job: shards (with file names as they are for now), keys, and what was skipped."""

    shards: list[ShardEntry] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    skips: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


def run_job(job: Job) -> JobResult:
    """Write the shards of `job`; files of an earlier attempt are replaced."""
    result = JobResult()
    good = _good_records(job, result)
    while (first := next(good, None)) is not None:
        name = f"{job.number:06d}-{len(result.shards):06d}.tar"
        shard = chain([first], islice(good, job.samples_per_shard - 1))
        result.shards.append(write_shard(job.folder / name, shard, name))
    return result


def _good_records(job: Job, result: JobResult) -> Iterator[Record]:
    seen: set[str] = set()
    for item in job.task.records():
        skip = item if isinstance(item, Skip) else _refuse(item, seen, job.exclude)
        if skip is not None:
            result.skips[skip.reason] += 1
            if len(result.examples) < EXAMPLES_PER_TASK:
                example = f"{job.split} {skip.reason} {skip.key}: {skip.detail}"
                # A name may hold bytes that are no UTF-8, which neither a log nor the index could take.
                result.examples.append(example.encode("utf-8", "backslashreplace").decode())
            continue
        assert isinstance(item, Record)  # noqa: S101 - for mypy: a Skip never gets here
        seen.add(item.key)
        result.keys.append(item.key)
        yield item


def _refuse(record: Record, seen: set[str], exclude: frozenset[str]) -> Skip | None:
    if record.key in seen or record.key in exclude:
        return Skip(records.DUPLICATE_KEY, record.key, "an earlier sample of this split has this key")
    return check.problem(record)


def end_with_parent() -> None:
    """Make this process end when the one that started it does, however that one was killed.

    A pool's processes would otherwise wait for work for ever, or go on writing into a folder that another run owns.
    """
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
