"""A look at a few samples of a source, with what `prepare` would do with each. Nothing is written."""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from clips_pipeline.data.prepare.filters import SampleRules
from clips_pipeline.data.prepare.validate import validate_record
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.shards.tar_file import BadSampleError, TarFile
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.data.sources.folder import FolderTask
from clips_pipeline.data.sources.in_place import CopyTask, TarTask, read_shard_records
from clips_pipeline.data.sources.join_tasks import JoinTask
from clips_pipeline.data.sources.source import ShardTask, Source
from clips_pipeline.data.storage.urls import is_remote

_MAX_PARTS = 5
"""Shards, or parts of a folder, that a spread look reads at most: each remote one costs a request or more."""

Fate = Literal["used", "filtered", "skipped"]


@dataclass(frozen=True)
class SeenSample:
    """A sample of a source, and what `prepare` would do with it.

    Attributes:
        key: its key, or its location if it has no key.
        record: the sample; None if it cannot be read.
        fate: whether it would be used, filtered, or skipped as unusable.
        reason: reason of the filter or the skip, as `prepare` counts it; empty if it is used.
        detail: what to repair.
        width: of the image in pixels; 0 if unknown.
        height: of the image in pixels; 0 if unknown.
    """

    key: str
    record: Record | None
    fate: Fate = "used"
    reason: str = ""
    detail: str = ""
    width: int = 0
    height: int = 0


def look_at(source: Source, split: Split, count: int, rules: SampleRules, seed: int | None = None) -> list[SeenSample]:
    """Read a few samples of a split.

    Args:
        source: source of the samples.
        split: one of its splits.
        count: number of samples.
        rules: which samples are used.
        seed: None reads the first samples; a number spreads them over the split: shards are drawn, and of local data the
            samples in them.

    Raises:
        ConfigError, StorageError: the source cannot be read.
    """
    found: list[SeenSample] = []
    seen: set[str] = set()
    for task, samples in _parts(source.tasks(split), count, seed):
        for item in _items(task, samples, seed):
            found.append(_judge(item, source, rules, seen))
            if len(found) == count:
                return found
    return found


def _parts(
    tasks: Sequence[ShardTask] | Sequence[TarTask], count: int, seed: int | None
) -> Iterator[tuple[ShardTask | TarTask, int]]:
    """Yield tasks with the number of samples to read of each."""
    if seed is None:
        for task in tasks:
            yield task, count
        return
    parts = min(len(tasks), count, _MAX_PARTS)
    drawn = sorted(random.Random(seed).sample(range(len(tasks)), parts))  # noqa: S311 - not used for cryptography
    for place, number in enumerate(drawn):
        yield tasks[number], count // parts + (place < count % parts)


def _items(task: ShardTask | TarTask, count: int, seed: int | None) -> Iterator[Record | Skip]:
    """Yield up to `count` samples of a task."""
    tar = task.tar if isinstance(task, CopyTask) else task
    if isinstance(tar, TarTask):
        if seed is not None and not is_remote(tar.address):
            yield from _drawn_from_tar(tar, count, seed)
            return
        items = read_shard_records(tar.address, tar.storage, tar.read, tar.limits)
    else:
        if seed is not None and isinstance(task, FolderTask):
            rows = sorted(_draw(len(task.rows), count, seed))
            task = replace(task, rows=tuple(task.rows[row] for row in rows))
        assert not isinstance(task, TarTask)  # noqa: S101  (handled above)
        # `records` of a join writes down which rows of the table are used.
        items = task.joined([]) if isinstance(task, JoinTask) else task.records()
    # Closed, so that the copy of a shard is deleted before the next one is read.
    with closing(items) as opened:  # type: ignore[type-var]  # sources are generators
        yield from islice(opened, count)


def _drawn_from_tar(task: TarTask, count: int, seed: int) -> Iterator[Record | Skip]:
    try:
        # A local tar: only the headers are read.
        with task.storage.local_copy(task.address) as path, TarFile(path, task.limits) as tar:
            for row in sorted(_draw(len(tar.keys), count, seed)):
                try:
                    yield task.read(tar, row)
                except Exception as error:
                    yield make_skip(error, tar.keys[row])
    except BadSampleError as bad:
        yield bad.skip


def _draw(of: int, count: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(of), min(of, count))  # noqa: S311 - not used for cryptography


def _judge(item: Record | Skip, source: Source, rules: SampleRules, seen: set[str]) -> SeenSample:
    if isinstance(item, Skip):
        # A sample without a row in the tables is intact, so it counts as filtered, as in `prepare`.
        fate: Fate = "filtered" if item.reason == records.NO_TABLE_ROW else "skipped"
        return SeenSample(item.key, None, fate, item.reason, item.detail)
    if item.key in seen:
        return SeenSample(item.key, item, "skipped", records.DUPLICATE_KEY, "an earlier sample has this key")
    try:
        size = validate_record(item, source.limits, captions_needed=source.fields.needed)
        if isinstance(size, Skip):
            return SeenSample(item.key, item, "skipped", size.reason, size.detail)
        seen.add(item.key)
        fault = rules.filters.find_fault(item, size)
    except Exception as error:
        skip = make_skip(error, item.key)
        return SeenSample(item.key, item, "skipped", skip.reason, skip.detail)
    if fault is not None:
        return SeenSample(item.key, item, "filtered", *fault, *size)
    return SeenSample(item.key, item, "used", "", "", *size)
