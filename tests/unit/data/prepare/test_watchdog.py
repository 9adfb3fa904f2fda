"""A sample that hangs or kills its process costs one sample; a shard that does is set aside and named."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.data.hostile_work import SAMPLES, HostileSource
from tests.unit.data.samples import read_tree, record, write_shard

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.statistics import load_statistics
from clips_pipeline.data.prepare.watchdog import Watchdog, WatchdogConfig
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.index import Index
from clips_pipeline.data.shards.reader import eval_samples

BOUNDS = WatchdogConfig(sample_seconds=2.0, shard_seconds=300.0)
ALL = [f"k{number:04d}" for number in range(3 * SAMPLES)]


def prepared(source: HostileSource, folder: Path, processes: int = 1, watchdog: WatchdogConfig = BOUNDS) -> Index:
    index = prepare(source, folder, processes=processes, max_skipped_fraction=0.5, watchdog=watchdog)
    found = load_statistics(folder).splits["train"]
    shards_lost = sum(count for reason, count in found.skipped.items() if reason.startswith("shard_"))
    # Counts add up: every sample is kept, skipped, or in a shard that is named.
    if not shards_lost:
        assert found.kept + sum(found.skipped.values()) == 3 * SAMPLES
    assert not list(folder.parent.glob(".*.partial"))
    return index


def keys(folder: Path) -> list[str]:
    return [record.key for record in eval_samples(folder, "train")]


@pytest.fixture
def shards(tmp_path: Path) -> tuple[str, ...]:
    paths = [tmp_path / f"{number}.tar" for number in range(3)]
    for number, path in enumerate(paths):
        write_shard(path, [record(number * SAMPLES + at) for at in range(SAMPLES)], path.name)
    return tuple(map(str, paths))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("fault", "reason"), [("hang", records.TOO_SLOW), ("die", records.KILLED)])
def test_sample_that_hangs_or_kills_its_process_is_skipped(
    tmp_path: Path, processes: int, fault: str, reason: str
) -> None:
    source = HostileSource(checked={0: fault, 4: fault}, read={})
    index = prepared(source, tmp_path / "shards", processes)
    assert index.skips == {"train": {reason: 2}}
    assert keys(tmp_path / "shards") == [key for key in ALL if key not in ("k0006", "k0010")]
    first = next(example for example in index.examples if "k0006" in example)
    assert first.startswith(f"train {reason} k0006 (shard 1): ")


@pytest.mark.parametrize(("fault", "reason"), [("hang", records.TOO_SLOW), ("die", records.KILLED)])
def test_row_of_a_shard_in_place_is_skipped(tmp_path: Path, shards: tuple[str, ...], fault: str, reason: str) -> None:
    index = prepared(HostileSource({}, {0: fault, 5: fault}, shards), tmp_path / "shards")
    assert index.skips == {"train": {reason: 2}}
    assert keys(tmp_path / "shards") == [key for key in ALL if key not in ("k0006", "k0011")]


def test_sample_of_a_process_that_was_killed_once_is_used(tmp_path: Path, shards: tuple[str, ...]) -> None:
    """The memory may have been taken by other processes."""
    (tmp_path / "times").write_text("1")
    quiet = prepared(HostileSource({}, {}, shards), tmp_path / "quiet")
    index = prepared(HostileSource({}, {3: f"leave {tmp_path / 'times'}"}, shards), tmp_path / "shards")
    assert (tmp_path / "times").read_text() == "0"
    assert index == quiet
    assert read_tree(tmp_path / "shards") == read_tree(tmp_path / "quiet")


def test_sample_that_a_source_cannot_read_ends_its_shard(tmp_path: Path) -> None:
    index = prepared(HostileSource({}, {3: "die"}), tmp_path / "shards")
    assert index.skips == {"train": {records.SHARD_KILLED: 1}}
    assert keys(tmp_path / "shards") == [*ALL[: SAMPLES + 3], *ALL[2 * SAMPLES :]]


def test_shard_that_exceeds_its_bound_is_set_aside_and_named(tmp_path: Path, shards: tuple[str, ...]) -> None:
    index = prepared(HostileSource({}, {3: "hang"}, shards), tmp_path / "shards", watchdog=WatchdogConfig(600.0, 3.0))
    assert index.skips == {"train": {records.SHARD_TOO_SLOW: 1}}
    assert keys(tmp_path / "shards") == [*ALL[:SAMPLES], *ALL[2 * SAMPLES :]]
    assert index.examples[0].startswith(f"train shard_too_slow {shards[1]}: it took longer than watchdog.shard_seconds")


def test_limit_on_skips_holds_for_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_skipped_fraction allows 5\.0%.*killed 2"):
        prepare(HostileSource({1: "die", 4: "die"}, {}), tmp_path / "shards", watchdog=BOUNDS)


def test_no_alarm_ends_the_process_that_runs_prepare(tmp_path: Path) -> None:
    """Dask may run jobs in threads of it."""
    with Watchdog(BOUNDS).watch(tmp_path / "notes") as watch:
        watch.begin("sample 0")
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    other = replace(Watchdog(BOUNDS), caller=("elsewhere", 1))
    with other.watch(tmp_path / "notes") as watch:
        watch.begin("sample 0")
        assert 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= BOUNDS.sample_seconds
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_notes_of_an_earlier_run_do_not_count(tmp_path: Path) -> None:
    """The user may have stopped it, twice at the same slow shard."""
    (tmp_path / "times").write_text("1")
    source = HostileSource({3: f"leave {tmp_path / 'times'}"}, {})
    notes = tmp_path / ".shards.partial" / "jobs" / "train" / "000001.notes"
    notes.parent.mkdir(parents=True)
    note = '{"run": "earlier", "began": 0.0, "attempt": 2, "deaths": {"sample 3": 1}, "slow": [], "set_aside": null}'
    notes.write_text("sample sample 3".ljust(63) + f"\n{note}\n")
    assert prepared(source, tmp_path / "shards").skips == {"train": {}}
    assert not os.path.lexists(notes)
