"""Long waits are reported with rank, worker, shard and seconds; short ones are not."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.samples import LengthReader, ListSource, record

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.loading.stall_monitor import ReadClock, Stall, StallMonitor
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.data.shards.records import Record


class StallRecorder:
    def __init__(self) -> None:
        self.stalls: list[Stall] = []
        self.called = threading.Event()

    def __call__(self, stall: Stall) -> None:
        self.stalls.append(stall)
        self.called.set()


@pytest.fixture
def recorder() -> StallRecorder:
    return StallRecorder()


@pytest.fixture
def monitor(recorder: StallRecorder) -> Iterator[StallMonitor]:
    monitor = StallMonitor(ReadClock(0), rank=3, after_s=0.05, on_stall=recorder)
    yield monitor
    monitor.close()


def test_long_wait_names_worker_and_shard(monitor: StallMonitor, recorder: StallRecorder) -> None:
    monitor.clock.begin(17)
    monitor.begin()
    assert recorder.called.wait(30.0)
    stall = recorder.stalls[0]
    assert (stall.rank, stall.worker, stall.shard) == (3, 0, 17)
    assert stall.seconds >= 0.05
    assert stall.reading_seconds >= stall.seconds


def test_long_wait_without_a_read_names_no_worker(monitor: StallMonitor, recorder: StallRecorder) -> None:
    monitor.clock.begin(17)
    monitor.clock.end()
    monitor.begin()
    assert recorder.called.wait(30.0)
    assert (recorder.stalls[0].worker, recorder.stalls[0].shard) == (None, None)


def test_reports_of_one_wait_become_rarer(monitor: StallMonitor, recorder: StallRecorder) -> None:
    monitor.begin()
    while len(recorder.stalls) < 3:
        time.sleep(0.01)
    monitor.end()
    first, second, third = (stall.seconds for stall in recorder.stalls[:3])
    assert second >= 2 * first
    assert third >= 2 * second


def test_nothing_is_reported_without_a_wait(monitor: StallMonitor, recorder: StallRecorder) -> None:
    monitor.begin()
    monitor.end()
    assert not recorder.called.wait(0.4)


_ANSWERS = multiprocessing.get_context("fork").Event()


class _HangingShards(ShardSet):
    """One shard does not respond for a while, like a network file system that is down."""

    def read(self, shard: int, row: int) -> Record:
        if shard == 1:
            assert _ANSWERS.wait(60.0)
        return super().read(shard, row)


def test_hanging_worker_is_named_in_the_training_process(tmp_path: Path, recorder: StallRecorder) -> None:
    prepare(ListSource({"train": [[record(n) for n in range(at, at + 8)] for at in (0, 8)]}), tmp_path / "shards")
    loader: Any = train_loader(
        tmp_path / "shards", "train", LengthReader(), ImageConfig(size=8), global_batch_size=4, workers=2, seed=1
    )
    loader.dataset.shards.__class__ = _HangingShards
    monitor = StallMonitor(loader.dataset.clock, rank=0, after_s=0.3, on_stall=recorder)
    monitor.begin()
    with ThreadPoolExecutor() as pool:
        batches = pool.submit(lambda: list(loader))
        # On a busy machine the first stalls are reported while the workers still start, and name no worker.
        until = time.monotonic() + 60.0
        while not (named := [stall for stall in recorder.stalls if stall.shard is not None]):
            assert time.monotonic() < until
            time.sleep(0.05)
        _ANSWERS.set()
        assert sum(len(batch) for batch in batches.result()) == 16
    monitor.close()
    assert (named[0].worker in (0, 1), named[0].shard) == (True, 1)
