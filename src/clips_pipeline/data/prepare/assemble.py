"""From a source to everything that `prepare` puts into place, in a folder aside, where an interrupted run can go on."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.dedup import drop_repeated
from clips_pipeline.data.prepare.executor import Map
from clips_pipeline.data.prepare.filters import Rules
from clips_pipeline.data.prepare.job import Job, run_job
from clips_pipeline.data.prepare.job_files import JOBS, SHARDS, JobFiles
from clips_pipeline.data.prepare.statistics import Example, SplitStatistics, Statistics, first_of_each
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
class Assembled:
    """What is in the folder, before its files have their last names.

    Attributes:
        index: of it.
        statistics: of it.
        moves: shards by their path in the index: their path for now.
    """

    index: Index
    statistics: Statistics
    moves: dict[str, str]


def open_folder(folder: Path, wanted: str) -> None:
    """Make `folder` ready for work towards the fingerprint `wanted`: what is there goes on, or is thrown away."""
    file = folder / _FINGERPRINT_FILE
    if folder.exists() and not (file.is_file() and file.read_text() == wanted):
        log.info("%s: begun for other data, removed", folder)
        shutil.rmtree(folder)
    if not folder.exists():
        folder.mkdir(parents=True)
        write_text(file, wanted, sync=True)


def assemble(
    source: Source, folder: Path, map_jobs: Map, *, samples_per_shard: int, rules: Rules, wanted: str
) -> Assembled:
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
    moves: dict[str, str] = {}
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
        kept, total = drop_repeated(jobs, map_jobs, folder / JOBS / f"{split}.duplicates")
        entries: list[ShardEntry] = []
        for job, files in zip(jobs, kept, strict=True):
            result = files.load()
            places.append(files.spans)
            total = total.plus(result.statistics)
            examples += result.examples
            for shard in result.shards:
                if not isinstance(job.task, TarTask):
                    path = f"{split}/{len(entries):05d}.tar"
                    moves[path] = f"{split}/{shard.path}"
                    shard = replace(shard, path=path)
                entries.append(shard)
            # A few of each reason are kept; a hundred thousand jobs have more.
            if len(examples) > 1000:
                examples = list(first_of_each(examples))
        splits[split], totals[split] = tuple(entries), total
        if not entries:
            raise ConfigError(_no_sample(split, total, first_of_each(examples)))
    classes = source.classes()
    if classes is not None:
        save_classes(classes, folder / SHARDS)
    sample_offsets.save(folder / SHARDS, (file.read_bytes() for file in places))
    few = first_of_each(examples)
    skips = {split: total.skipped for split, total in totals.items()}
    bad = [str(example) for example in few if example.reason in skips[example.split]]
    index = Index(wanted, splits, skips, tuple(bad[:EXAMPLES]), source.fields)
    notes = source.notes()
    return Assembled(index, Statistics(wanted, totals, few, notes), moves)


def finish(made: Assembled, folder: Path) -> None:
    """Give the shards in `folder` their last names, remove all others, and write index and statistics.

    Killed in the middle or soon after, `assemble` finds all jobs done and this goes on.
    """
    for path, now in made.moves.items():
        if (folder / now).exists():
            (folder / now).rename(folder / path)
    for split in made.index.splits:
        for name in os.listdir(folder / split):
            if f"{split}/{name}" not in made.moves:
                (folder / split / name).unlink()
        if not any(path.startswith(f"{split}/") for path in made.moves):
            (folder / split).rmdir()
    made.index.save(folder)
    made.statistics.save(folder)


def _no_sample(split: Split, total: SplitStatistics, examples: Sequence[Example]) -> str:
    first = next((f"; first left out: {example}" for example in examples if example.split == split), "")
    return (
        f"split {split!r} has no sample ({sum(total.skipped.values())} skipped, {sum(total.filtered.values())} filtered"
        f"{first}); give more data, or change how the source is split (source.folder: test_share, validation_share, "
        "evaluate_on)"
    )
