"""A wait that is too long is told, with rank, worker, shard and seconds; others are not."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.samples import Lengths, ListSource, record

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.loading.stall_monitor import ReadClock, Stall, StallMonitor
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.data.shards.records import Record


class _Told:
    def __init__(self) -> None:
        self.stalls: list[Stall] = []
        self.any = threading.Event()

    def __call__(self, stall: Stall) -> None:
        self.stalls.append(stall)
        self.any.set()


@pytest.fixture
def told() -> _Told:
    return _Told()


@pytest.fixture
def watch(told: _Told) -> Iterator[StallMonitor]:
    made = StallMonitor(ReadClock(0), rank=3, after_s=0.05, on_stall=told)
    yield made
    made.close()


def test_a_long_wait_names_who_reads_what(watch: StallMonitor, told: _Told) -> None:
    watch.clock.begin(17)
    watch.begin()
    assert told.any.wait(30.0)
    stall = told.stalls[0]
    assert (stall.rank, stall.worker, stall.shard) == (3, 0, 17)
    assert stall.seconds >= 0.05
    assert stall.reading_seconds >= stall.seconds


def test_a_long_wait_in_which_nothing_is_read(watch: StallMonitor, told: _Told) -> None:
    watch.clock.begin(17)
    watch.clock.end()
    watch.begin()
    assert told.any.wait(30.0)
    assert (told.stalls[0].worker, told.stalls[0].shard) == (None, None)


def test_one_wait_is_told_more_and_more_seldom(watch: StallMonitor, told: _Told) -> None:
    watch.begin()
    while len(told.stalls) < 3:
        time.sleep(0.01)
    watch.end()
    first, second, third = (stall.seconds for stall in told.stalls[:3])
    assert second >= 2 * first
    assert third >= 2 * second


def test_nothing_is_told_while_nobody_waits(watch: StallMonitor, told: _Told) -> None:
    watch.begin()
    watch.end()
    assert not told.any.wait(0.4)


_ANSWERS = multiprocessing.get_context("fork").Event()


class _HangingShards(ShardSet):
    """One shard does not answer for a while, as on a network file system that is gone."""

    def read(self, shard: int, row: int) -> Record:
        if shard == 1:
            assert _ANSWERS.wait(60.0)
        return super().read(shard, row)


def test_a_worker_that_hangs_is_named_in_the_training_process(tmp_path: Path, told: _Told) -> None:
    prepare(ListSource({"train": [[record(n) for n in range(at, at + 8)] for at in (0, 8)]}), tmp_path / "shards")
    loader: Any = train_loader(
        tmp_path / "shards", "train", Lengths(), ImageConfig(size=8), global_batch_size=4, workers=2, seed=1
    )
    loader.dataset.shards.__class__ = _HangingShards
    watch = StallMonitor(loader.dataset.clock, rank=0, after_s=0.3, on_stall=told)
    watch.begin()
    with ThreadPoolExecutor() as pool:
        batches = pool.submit(lambda: list(loader))
        # On a busy machine the first stalls are told while the workers still start, and name none.
        until = time.monotonic() + 60.0
        while not (named := [stall for stall in told.stalls if stall.shard is not None]):
            assert time.monotonic() < until
            time.sleep(0.05)
        _ANSWERS.set()
        assert sum(len(batch) for batch in batches.result()) == 16
    watch.close()
    assert (named[0].worker in (0, 1), named[0].shard) == (True, 1)
