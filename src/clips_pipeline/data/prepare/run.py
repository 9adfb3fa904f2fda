"""Preparation of shards and their index. Runs in parallel, is atomic, and does nothing if the data is up to date."""

import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from clips_pipeline import formats
from clips_pipeline.config import ConfigError, digest_mapping
from clips_pipeline.data.prepare.assemble import assemble, finish, open_folder
from clips_pipeline.data.prepare.caption_check import check_captions
from clips_pipeline.data.prepare.executor import ExecutorConfig, map_jobs
from clips_pipeline.data.prepare.filters import SampleRules
from clips_pipeline.data.prepare.job_files import SHARDS
from clips_pipeline.data.prepare.statistics import STATISTICS_FILE, Statistics, load_statistics
from clips_pipeline.data.prepare.watchdog import Watchdog, WatchdogConfig
from clips_pipeline.data.shards.folder_lock import lock_for_replacement
from clips_pipeline.data.shards.index import (
    CLASSES_FILE,
    INDEX_FILE,
    Index,
    find_missing_or_changed,
    load_index,
)
from clips_pipeline.data.shards.sample_offsets import SPANS_FILE, matches_index
from clips_pipeline.data.sources.source import Source
from clips_pipeline.io.digests import file_sha256, json_sha256
from clips_pipeline.io.file_lock import lock_target
from clips_pipeline.io.terminal import shown_path
from clips_pipeline.progress import Stage

log = logging.getLogger(__name__)

SAMPLES_PER_SHARD = 10_000


def prepare(
    source: Source,
    out_dir: Path,
    *,
    processes: int = 1,
    max_skipped_fraction: float = 0.05,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    rules: SampleRules = SampleRules(),  # noqa: B008 - immutable
    run_on: ExecutorConfig = ExecutorConfig(),  # noqa: B008 - immutable
    watchdog: WatchdogConfig | None = None,
) -> Index:
    """Write all splits of `source` into `out_dir`, unless it already holds exactly this data.

    The data is written to a temporary folder and renamed at the end. If the process is killed, either the old or the new
    shards are complete. Finished jobs stay in `.NAME.partial` beside `out_dir`, and the next run for the same data
    resumes there. `.NAME.before` is the former folder during the replacement. Another process that prepares it is awaited.

    Args:
        source: source of the samples.
        out_dir: folder for index, spans, statistics, classes and one folder of tar files per split; its old data is
            replaced.
        processes: size of the process pool; 1 works in this process. The shards do not depend on it.
        max_skipped_fraction: limit on the fraction of samples that cannot be used, from 0 to 1; filtered samples do not
            count.
        samples_per_shard: limit per tar file; each task of the source starts a new file.
        rules: which samples are used.
        run_on: executor of the jobs; the shards do not depend on it.
        watchdog: bounds on the time of samples and shards, which then are always read in processes of their own; None
            for data that is made here.

    Returns:
        The index of the prepared data, also if it was up to date.

    Raises:
        ConfigError: too many samples were skipped (the message has counts and examples), a split is empty, the captions
            are certainly none (`caption_check`), an argument is out of range, `out_dir` holds other files, or another
            process reads it.
        StorageError: a remote shard cannot be reached, and its storage has `unreachable: stop`.
        OSError: the disk is full or read-only; nothing is half-written, and the next run resumes.
    """
    if processes < 1 or samples_per_shard < 1 or not 0.0 <= max_skipped_fraction <= 1.0:
        raise ConfigError(
            f"processes {processes}, samples_per_shard {samples_per_shard}, max_skipped_fraction {max_skipped_fraction}: "
            "the first two must be at least 1, the last a fraction from 0 to 1"
        )
    out_dir = out_dir.absolute()
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary, previous = (out_dir.with_name(f".{out_dir.name}.{kind}") for kind in ("partial", "before"))
    with lock_target(out_dir) as writable:
        if writable:
            _recover(out_dir, previous)
        _refuse_unknown_files(out_dir)
        digest = fingerprint(source, samples_per_shard, rules)
        found = _load_current(out_dir, digest)
        if found is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            _check_samples(source, *found, max_skipped_fraction)
            log.info("%s: up to date (fingerprint %s), nothing to do", shown_path(out_dir), digest[:12])
            return found[0]
        with lock_for_replacement(out_dir), Stage("prepare", None, "shards") as stage:
            open_folder(temporary, digest)
            prepared = assemble(
                source,
                temporary,
                partial(map_jobs, processes=processes, run_on=run_on),
                samples_per_shard=samples_per_shard,
                rules=rules,
                fingerprint=digest,
                watchdog=None if watchdog is None else Watchdog(watchdog),
                stage=stage,
            )
            stage.note = ""
            _check_samples(source, prepared.index, prepared.statistics, max_skipped_fraction)
            finish(prepared, temporary / SHARDS)
            if out_dir.exists():
                out_dir.rename(previous)
            (temporary / SHARDS).rename(out_dir)
        shutil.rmtree(temporary)
        shutil.rmtree(previous, ignore_errors=True)
    return _logged(out_dir, prepared.index)


def _logged(out_dir: Path, index: Index) -> Index:
    for split, shards in index.splits.items():
        count = index.split_samples(split)
        log.info("%s/%s: %d samples in %d shards", shown_path(out_dir), split, count, len(shards))
    return index


def fingerprint(source: Source, samples_per_shard: int, rules: SampleRules) -> str:
    """Return the digest of everything that determines the prepared shards: source, parameters and format version.

    It is independent of the number of processes, of the executor, of paths and of the time.
    """
    facts = {
        "source": source.fingerprint(),
        "samples_per_shard": samples_per_shard,
        "rules": _digest_rules(rules),
        "limits": digest_mapping(source.limits),
        "format": formats.SHARDS,
    }
    return json_sha256(facts)


def _digest_rules(rules: SampleRules) -> dict[str, Any]:
    """Return the rules; a table counts by its content, and one that is not set does not count."""
    digested = digest_mapping(rules)
    for name in ("score_table", "drop_table"):
        table = digested["filters"].pop(name)
        if table is None:
            continue
        try:
            digested["filters"][name] = file_sha256(Path(table))
        except OSError as error:
            raise ConfigError(f"prepare.filters.{name}: {table}: {error.strerror}; give the path of a file") from None
    return digested


def is_current(
    source: Source,
    out_dir: Path,
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    rules: SampleRules = SampleRules(),  # noqa: B008 - immutable
) -> bool:
    """Return whether `prepare` with these arguments would find nothing to do.

    Args:
        source: see `prepare`.
        out_dir: see `prepare`.
        samples_per_shard: see `prepare`.
        rules: see `prepare`.
    """
    return _load_current(out_dir, fingerprint(source, samples_per_shard, rules)) is not None


def _load_current(out_dir: Path, digest: str) -> tuple[Index, Statistics] | None:
    try:
        index, statistics = load_index(out_dir), load_statistics(out_dir)
    except ConfigError:
        return None
    shards = (shard for split in index.splits.values() for shard in split)
    if {index.fingerprint, statistics.fingerprint} != {digest} or not matches_index(out_dir, index):
        return None
    if find_missing_or_changed(shards, out_dir):
        return None
    return index, statistics


def _check_samples(source: Source, index: Index, statistics: Statistics, max_skipped_fraction: float) -> None:
    """Log what was left out; refuse data of which too much was, and captions that are none."""
    for split, found in statistics.splits.items():
        for what, counts in (("left out", found.skipped), ("filtered", found.filtered), ("noted", found.noted)):
            for reason, count in counts.items():
                log.warning("%s: %s %d samples: %s", split, what, count, reason)
    for what, count in statistics.notes.items():
        log.info("%s: %d", what, count)
    share = statistics.unusable_fraction()
    if share <= max_skipped_fraction:
        if source.fields.needed:
            check_captions(statistics, source.captioners)
        return
    counted = "; ".join(f"{split} {name} {n}" for split, reasons in index.skips.items() for name, n in reasons.items())
    raise ConfigError(
        f"{share:.1%} of the samples cannot be used, max_skipped_fraction allows {max_skipped_fraction:.1%} ({counted}). "
        "Repair the source or raise max_skipped_fraction; finished jobs are not run again. Examples:\n  "
        + "\n  ".join(index.examples)
    )


def _recover(out_dir: Path, previous: Path) -> None:
    """Complete the replacement if a process was killed between the two renames."""
    if not previous.exists():
        return
    if out_dir.exists():
        shutil.rmtree(previous)
    else:
        previous.rename(out_dir)


def _refuse_unknown_files(out_dir: Path) -> None:
    """Refuse to replace a folder that holds files other than prepared data."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise ConfigError(f"{out_dir} is a file; shards need a folder: move it away")
    files, splits = (INDEX_FILE, STATISTICS_FILE, CLASSES_FILE, SPANS_FILE), ("train", "validation", "test")
    known = {*files, *splits, ".gitkeep", ".gitignore"}
    foreign = sorted(set(os.listdir(out_dir)) - known)
    if foreign:
        raise ConfigError(f"{out_dir} holds {foreign[0]!r}, which prepare did not make; name an empty folder")
