"""Assembly of prepared data in a temporary folder, where an interrupted run can resume."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.dedup import drop_duplicates
from clips_pipeline.data.prepare.executor import MapFunction
from clips_pipeline.data.prepare.filters import SampleRules
from clips_pipeline.data.prepare.job import Job, run_job
from clips_pipeline.data.prepare.job_files import JOBS, SHARDS, JobFiles
from clips_pipeline.data.prepare.statistics import Example, SplitStatistics, Statistics, first_examples
from clips_pipeline.data.prepare.watchdog import Watchdog
from clips_pipeline.data.shards import sample_offsets
from clips_pipeline.data.shards.index import Index, ShardEntry, save_classes
from clips_pipeline.data.shards.records import NO_TABLE_ROW
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.sources.in_place import TarTask
from clips_pipeline.data.sources.source import ShardTask, Source
from clips_pipeline.io.atomic import write_text
from clips_pipeline.progress import Stage

log = logging.getLogger(__name__)

_MAX_EXAMPLES = 20

_FINGERPRINT_FILE = "fingerprint"


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Prepared data whose shards still have temporary names.

    Attributes:
        index: index of the data.
        statistics: statistics of the data.
        written_paths: present path of each written shard, by its path in the index.
    """

    index: Index
    statistics: Statistics
    written_paths: dict[str, str]


def open_folder(folder: Path, fingerprint: str) -> None:
    """Make `folder` ready for data with this fingerprint: keep earlier work for the same data, delete any other."""
    file = folder / _FINGERPRINT_FILE
    if folder.exists() and not (file.is_file() and file.read_text() == fingerprint):
        log.info("%s: started for other data, removed", folder)
        shutil.rmtree(folder)
    if not folder.exists():
        folder.mkdir(parents=True)
        write_text(file, fingerprint, sync=True)


def assemble(
    source: Source,
    folder: Path,
    map_jobs: MapFunction,
    *,
    samples_per_shard: int,
    rules: SampleRules,
    fingerprint: str,
    watchdog: Watchdog | None,
    stage: Stage,
) -> PreparedData:
    """Run all unfinished jobs and combine their results.

    Args:
        source: source of the tasks.
        folder: from `open_folder`.
        map_jobs: runs a function on jobs (`executor.map_jobs`).
        samples_per_shard: limit for shards that are written.
        rules: which samples are used.
        fingerprint: fingerprint of the data.
        watchdog: bounds on the time of the jobs.
        stage: counts the jobs of all splits.

    Raises:
        ConfigError: a split has no sample.
    """
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    totals: dict[str, SplitStatistics] = {}
    examples: list[Example] = []
    written_paths: dict[str, str] = {}
    span_files: list[Path] = []
    tasks_of: dict[Split, Sequence[ShardTask | TarTask]] = {split: source.tasks(split) for split in source.splits}
    stage.total = sum(map(len, tasks_of.values()))
    for split, tasks in tasks_of.items():
        for name in (SHARDS, JOBS):
            (folder / name / split).mkdir(parents=True, exist_ok=True)
        jobs = [
            Job(
                task,
                source.fields.needed,
                JobFiles(folder, split, number),
                samples_per_shard,
                rules,
                watchdog,
                source.limits,
            )
            for number, task in enumerate(tasks)
        ]
        stage.note = split
        map_jobs(run_job, jobs, stage=stage)
        results, total = drop_duplicates(jobs, map_jobs, folder / JOBS / f"{split}.duplicates")
        entries: list[ShardEntry] = []
        for job, files in zip(jobs, results, strict=True):
            result = files.load()
            span_files.append(files.spans)
            total = total.merge(result.statistics)
            examples += result.examples
            for shard in result.shards:
                if not isinstance(job.task, TarTask):
                    path = f"{split}/{len(entries):05d}.tar"
                    written_paths[path] = f"{split}/{shard.path}"
                    shard = replace(shard, path=path)
                entries.append(shard)
            # Bounds the list; only a few per reason are kept.
            if len(examples) > 1000:
                examples = list(first_examples(examples))
        splits[split], totals[split] = tuple(entries), total
        if not entries:
            no_row = source.explain_no_row() if set(total.filtered) == {NO_TABLE_ROW} and not total.skipped else None
            raise ConfigError(_no_sample_message(split, total, first_examples(examples), no_row))
    classes = source.classes()
    if classes is not None:
        save_classes(classes, folder / SHARDS)
    sample_offsets.save(folder / SHARDS, (file.read_bytes() for file in span_files))
    kept_examples = first_examples(examples)
    skips = {split: total.skipped for split, total in totals.items()}
    bad = [str(example) for example in kept_examples if example.reason in skips[example.split]]
    index = Index(fingerprint, splits, skips, tuple(bad[:_MAX_EXAMPLES]), source.fields, source.limits)
    notes = source.notes()
    return PreparedData(index, Statistics(fingerprint, totals, kept_examples, notes), written_paths)


def finish(prepared: PreparedData, folder: Path) -> None:
    """Rename the shards in `folder` to their final names, delete all others, and write index and statistics.

    After an interruption, `assemble` finds all jobs done and this function completes the rest.
    """
    for path, now in prepared.written_paths.items():
        if (folder / now).exists():
            (folder / now).rename(folder / path)
    for split in prepared.index.splits:
        for name in os.listdir(folder / split):
            if f"{split}/{name}" not in prepared.written_paths:
                (folder / split / name).unlink()
        if not any(path.startswith(f"{split}/") for path in prepared.written_paths):
            (folder / split).rmdir()
    prepared.index.save(folder)
    prepared.statistics.save(folder)


_GIVE_MORE = (
    "give more data, or change how the source is split (source.folder: test_fraction, validation_fraction, evaluate_on)"
)


def _no_sample_message(
    split: Split, total: SplitStatistics, examples: Sequence[Example], no_row: str | None = None
) -> str:
    first = next((f"; first left out: {example}" for example in examples if example.split == split), "")
    return (
        f"split {split!r} has no sample ({sum(total.skipped.values())} skipped, {sum(total.filtered.values())} filtered"
        f"{first}); {no_row or _GIVE_MORE}"
    )
