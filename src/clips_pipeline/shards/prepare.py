"""A source to shards and their index: in parallel, all or nothing, and only when something has changed."""

import fcntl
import logging
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.shards.fingerprint import fingerprint
from clips_pipeline.shards.index import (
    CLASSES_FILE,
    INDEX_FILE,
    Index,
    ShardEntry,
    load_index,
    missing_or_changed,
    save_classes,
)
from clips_pipeline.shards.prepare_task import Job, JobResult, end_with_parent, run_job
from clips_pipeline.shards.sources.source import InPlaceTask, Source, Split

log = logging.getLogger(__name__)

SAMPLES_PER_SHARD = 10_000
EXAMPLES = 20


def prepare(
    source: Source,
    out_dir: Path,
    *,
    processes: int = 1,
    max_skip_share: float = 0.05,
    samples_per_shard: int = SAMPLES_PER_SHARD,
) -> Index:
    """Write all splits of `source` into `out_dir`, unless it already holds exactly that.

    Everything is written aside and renamed at the end: whenever it is killed, the old shards or the new ones are whole.

    Args:
        source: gives the samples.
        out_dir: `index.json`, `classes.json` and a folder of tar files per split. What it held before is replaced.
        processes: working side by side; the shards do not depend on it. 1 works in this process.
        max_skip_share: of samples that cannot be used, from 0 to 1.
        samples_per_shard: at most so many per tar file; a task of the source starts a new one.

    Raises:
        ConfigError: too many samples cannot be used (the message has counts and examples), a split is empty, an
            argument is out of range, `out_dir` holds something else, or another process is preparing it.
    """
    if processes < 1 or samples_per_shard < 1 or not 0.0 <= max_skip_share <= 1.0:
        raise ConfigError(
            f"processes {processes}, samples_per_shard {samples_per_shard}, max_skip_share {max_skip_share}: "
            "the first two must be at least 1, the last a share from 0 to 1"
        )
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    aside, before = out_dir.with_name(f".{out_dir.name}.partial"), out_dir.with_name(f".{out_dir.name}.before")
    with _only_one(out_dir):
        _recover(out_dir, before)
        _refuse_foreign(out_dir)
        wanted = fingerprint(source, samples_per_shard)
        found = _current(out_dir, wanted)
        if found is not None:
            _check_skips(found, max_skip_share)
            log.info("%s: up to date (fingerprint %s), nothing to do", out_dir, wanted[:12])
            return found
        shutil.rmtree(aside, ignore_errors=True)
        try:
            index = _write(source, aside, processes, samples_per_shard, wanted)
            _check_skips(index, max_skip_share)
            if out_dir.exists():
                out_dir.rename(before)
            aside.rename(out_dir)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)
    for split, shards in index.splits.items():
        log.info("%s/%s: %d samples in %d shards", out_dir, split, index.split_samples(split), len(shards))
    return index


def is_current(source: Source, out_dir: Path, *, samples_per_shard: int = SAMPLES_PER_SHARD) -> bool:
    """Whether `prepare` with these arguments would find nothing to do."""
    return _current(out_dir, fingerprint(source, samples_per_shard)) is not None


def _current(out_dir: Path, wanted: str) -> Index | None:
    try:
        index = load_index(out_dir)
    except ConfigError:
        return None
    shards = (shard for split in index.splits.values() for shard in split)
    return index if index.fingerprint == wanted and not missing_or_changed(shards, out_dir) else None


def _write(source: Source, folder: Path, processes: int, samples_per_shard: int, wanted: str) -> Index:
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    skips: dict[str, dict[str, int]] = {}
    examples: list[str] = []
    for split in source.splits:
        (folder / split).mkdir(parents=True)
        tasks = [task for task in source.tasks(split) if not isinstance(task, InPlaceTask)]
        jobs = [Job(task, split, i, folder / split, samples_per_shard) for i, task in enumerate(tasks)]
        results = _without_duplicates(jobs, _run(jobs, processes))
        splits[split] = _number(split, folder, [shard for result in results for shard in result.shards])
        counts = sum((result.skips for result in results), Counter[str]())
        skips[split] = dict(sorted(counts.items()))
        examples += [example for result in results for example in result.examples]
        if not splits[split]:
            first = f"; first skipped: {examples[0]}" if examples else ""
            raise ConfigError(
                f"split {split!r} has no sample ({sum(counts.values())} skipped{first}); give more data, or change how "
                "the source is split (source.folder: test_share, validation_share, evaluate_on)"
            )
    classes = source.classes()
    if classes is not None:
        save_classes(classes, folder)
    index = Index(wanted, splits, skips, tuple(examples[:EXAMPLES]))
    index.save(folder)
    return index


def _run(jobs: list[Job], processes: int) -> list[JobResult]:
    if processes == 1 or len(jobs) < 2:
        return [run_job(job) for job in jobs]
    # Not fork: the caller (Kedro, MLflow, a progress bar) may run threads, whose locks a fork would copy as held.
    context = multiprocessing.get_context("spawn")
    workers = min(processes, len(jobs))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        return list(pool.map(run_job, jobs))


def _without_duplicates(jobs: list[Job], results: list[JobResult]) -> list[JobResult]:
    """Tasks cannot see each other's keys; one that repeats an earlier task's key is run again without it."""
    seen: set[str] = set()
    kept = []
    for job, result in zip(jobs, results, strict=True):
        repeated = seen.intersection(result.keys)
        if repeated:
            for shard in result.shards:
                (job.folder / shard.path).unlink()
            result = run_job(replace(job, exclude=frozenset(repeated)))
        seen.update(result.keys)
        kept.append(result)
    return kept


def _number(split: Split, folder: Path, shards: list[ShardEntry]) -> tuple[ShardEntry, ...]:
    numbered = []
    for number, shard in enumerate(shards):
        path = f"{split}/{number:05d}.tar"
        (folder / split / shard.path).rename(folder / path)
        numbered.append(replace(shard, path=path))
    return tuple(numbered)


def _check_skips(index: Index, max_skip_share: float) -> None:
    share = index.skip_share()
    if share <= max_skip_share:
        for split, counts in index.skips.items():
            for reason, count in counts.items():
                log.warning("%s: left out %d samples: %s", split, count, reason)
        return
    counted = "; ".join(f"{split} {name} {n}" for split, reasons in index.skips.items() for name, n in reasons.items())
    raise ConfigError(
        f"{share:.1%} of the samples cannot be used, max_skip_share allows {max_skip_share:.1%} ({counted}). "
        "Repair the source or raise max_skip_share. Examples:\n  " + "\n  ".join(index.examples)
    )


@contextmanager
def _only_one(out_dir: Path) -> Iterator[None]:
    # The system drops the lock when the process ends, also when it is killed.
    with out_dir.with_name(f".{out_dir.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{out_dir}: another process is preparing it; wait for it or stop it") from None
        yield


def _recover(out_dir: Path, before: Path) -> None:
    """Finish what a kill between the two renames left."""
    if not before.exists():
        return
    if out_dir.exists():
        shutil.rmtree(before)
    else:
        before.rename(out_dir)


def _refuse_foreign(out_dir: Path) -> None:
    """Never replace a folder that holds anything but shards."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise ConfigError(f"{out_dir} is a file; shards need a folder: move it away")
    known = {INDEX_FILE, CLASSES_FILE, "train", "validation", "test", ".gitkeep", ".gitignore"}
    foreign = sorted(set(os.listdir(out_dir)) - known)
    if foreign:
        raise ConfigError(f"{out_dir} holds {foreign[0]!r}, which prepare did not make; name an empty folder")
