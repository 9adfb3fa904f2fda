"""From a source to everything that `prepare` puts into place, in a folder aside, where an interrupted run can go on."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.dedup import drop_duplicates
from clips_pipeline.data.prepare.executor import MapFunction
from clips_pipeline.data.prepare.filters import Rules
from clips_pipeline.data.prepare.job import Job, run_job
from clips_pipeline.data.prepare.job_files import JOBS, SHARDS, JobFiles
from clips_pipeline.data.prepare.statistics import Example, SplitStatistics, Statistics, first_examples
from clips_pipeline.data.shards import sample_offsets
from clips_pipeline.data.shards.index import Index, ShardEntry, save_classes
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.sources.in_place import TarTask
from clips_pipeline.data.sources.source import ShardTask, Source
from clips_pipeline.io.atomic import write_text

log = logging.getLogger(__name__)

EXAMPLES = 20

_FINGERPRINT_FILE = "fingerprint"


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What is in the folder, before its files have their last names.

    Attributes:
        index: of it.
        statistics: of it.
        moves: shards by their path in the index: their path for now.
    """

    index: Index
    statistics: Statistics
    written_paths: dict[str, str]


def open_folder(folder: Path, fingerprint: str) -> None:
    """Make `folder` ready for work towards the fingerprint `wanted`: what is there goes on, or is thrown away."""
    file = folder / _FINGERPRINT_FILE
    if folder.exists() and not (file.is_file() and file.read_text() == fingerprint):
        log.info("%s: begun for other data, removed", folder)
        shutil.rmtree(folder)
    if not folder.exists():
        folder.mkdir(parents=True)
        write_text(file, fingerprint, sync=True)


def assemble(
    source: Source, folder: Path, map_jobs: MapFunction, *, samples_per_shard: int, rules: Rules, fingerprint: str
) -> PreparedData:
    """Run all jobs that are not done, and put their results together.

    Args:
        source: gives the tasks.
        folder: from `open_folder`.
        map_jobs: runs a function on jobs, `mapping.map_jobs`.
        samples_per_shard: of shards that are written.
        rules: which samples are taken.
        wanted: the fingerprint.

    Raises:
        ConfigError: a split has no sample.
    """
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    totals: dict[str, SplitStatistics] = {}
    examples: list[Example] = []
    written_paths: dict[str, str] = {}
    places: list[Path] = []
    for split in source.splits:
        for name in (SHARDS, JOBS):
            (folder / name / split).mkdir(parents=True, exist_ok=True)
        tasks: Sequence[ShardTask | TarTask] = source.tasks(split)
        jobs = [
            Job(task, source.fields.needed, JobFiles(folder, split, number), samples_per_shard, rules)
            for number, task in enumerate(tasks)
        ]
        map_jobs(run_job, jobs)
        results, total = drop_duplicates(jobs, map_jobs, folder / JOBS / f"{split}.duplicates")
        entries: list[ShardEntry] = []
        for job, files in zip(jobs, results, strict=True):
            result = files.load()
            places.append(files.spans)
            total = total.merge(result.statistics)
            examples += result.examples
            for shard in result.shards:
                if not isinstance(job.task, TarTask):
                    path = f"{split}/{len(entries):05d}.tar"
                    written_paths[path] = f"{split}/{shard.path}"
                    shard = replace(shard, path=path)
                entries.append(shard)
            # A few of each reason are kept; a hundred thousand jobs have more.
            if len(examples) > 1000:
                examples = list(first_examples(examples))
        splits[split], totals[split] = tuple(entries), total
        if not entries:
            raise ConfigError(_no_sample(split, total, first_examples(examples)))
    classes = source.classes()
    if classes is not None:
        save_classes(classes, folder / SHARDS)
    sample_offsets.save(folder / SHARDS, (file.read_bytes() for file in places))
    few = first_examples(examples)
    skips = {split: total.skipped for split, total in totals.items()}
    bad = [str(example) for example in few if example.reason in skips[example.split]]
    index = Index(fingerprint, splits, skips, tuple(bad[:EXAMPLES]), source.fields)
    notes = source.notes()
    return PreparedData(index, Statistics(fingerprint, totals, few, notes), written_paths)


def finish(prepared: PreparedData, folder: Path) -> None:
    """Give the shards in `folder` their last names, remove all others, and write index and statistics.

    Killed in the middle or soon after, `assemble` finds all jobs done and this goes on.
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


def _no_sample(split: Split, total: SplitStatistics, examples: Sequence[Example]) -> str:
    first = next((f"; first left out: {example}" for example in examples if example.split == split), "")
    return (
        f"split {split!r} has no sample ({sum(total.skipped.values())} skipped, {sum(total.filtered.values())} filtered"
        f"{first}); give more data, or change how the source is split (source.folder: test_fraction, validation_fraction, "
        "evaluate_on)"
    )
