"""Real work on a cluster: three workers join shards with a table and read Parquet files, and one of them is killed."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.samples import read_tree
from tests.unit.data.sources.test_join_tables import LONG, write_dreamlip
from tests.unit.data.sources.test_parquet import RECAP_COLUMNS, write_recap
from tests.unit.data.sources.test_recaption import HERE, _shard
from tests.unit.data.work import wait_until

from clips_pipeline.data.prepare.executor import ExecutorConfig
from clips_pipeline.data.prepare.filters import FilterConfig, SampleRules
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.watchdog import WatchdogConfig
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.sources.parquet import ParquetConfig, ParquetSource
from clips_pipeline.data.sources.recaption import RecaptionConfig, RecaptionSource
from clips_pipeline.data.sources.source import Source
from clips_pipeline.data.sources.table_rows import TableColumns

pytestmark = pytest.mark.slow

RULES = SampleRules(filters=FilterConfig(duplicate_images=True))
FILES, ROWS = 24, 30


@dataclass(frozen=True)
class LoggedTask:
    """A real task that notes which process reads it."""

    task: Any
    file: str

    def records(self) -> Iterator[Record | Skip]:
        with Path(self.file).open("a") as log:
            log.write(f"{os.getpid()}\n")
        yield from self.task.records()

    def save_matched(self, matched: list[int]) -> None:
        self.task.save_matched(matched)


@dataclass
class LoggedSource(Source):
    inner: Source
    folder: Path

    @property
    def splits(self) -> tuple[Split, ...]:
        return self.inner.splits

    def tasks(self, split: Split) -> list[LoggedTask]:  # type: ignore[override]
        self.folder.mkdir(exist_ok=True)
        return [
            LoggedTask(task, str(self.folder / f"{split}-{n:03d}")) for n, task in enumerate(self.inner.tasks(split))
        ]

    def fingerprint(self) -> str:
        return self.inner.fingerprint()

    def notes(self) -> dict[str, int]:
        return self.inner.notes()

    def started(self) -> dict[str, list[int]]:
        return {file.name: [int(line) for line in file.read_text().split()] for file in sorted(self.folder.glob("*"))}


def parquet(folder: Path) -> Source:
    write_recap(folder / "set", FILES, ROWS)
    return ParquetSource(ParquetConfig(f"{folder}/set/data/*.parquet", RECAP_COLUMNS, rows_per_task=ROWS), HERE)


def join(folder: Path) -> Source:
    urls = []
    for shard in range(FILES):
        made = [(f"{row:09d}", f"web {shard} {row}", {"url": f"http://h/{shard}/{row}.jpg"}) for row in range(ROWS)]
        urls += [facts["url"] for _, _, facts in made]
        _shard(folder / f"{shard:03d}.tar", made)
    table = write_dreamlip(folder / "captions.csv", urls[7:])
    columns = TableColumns(LONG, web="raw_caption", key="Image Path")
    shards = f"{folder}/{{000..{FILES - 1:03d}}}.tar"
    config = RecaptionConfig(shards, table, on="url", columns=columns, keys_repeat=True)
    return RecaptionSource(config, HERE, folder / "tables")


@pytest.mark.parametrize("make", [parquet, join])
def test_a_killed_worker_of_three_loses_nothing(tmp_path: Path, make: Any) -> None:
    from distributed import Client, LocalCluster

    (tmp_path / "in").mkdir()
    source = LoggedSource(make(tmp_path / "in"), tmp_path / "log")
    prepare(source.inner, tmp_path / "alone", rules=RULES)
    with LocalCluster(
        n_workers=3,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path / "dask"),
    ) as cluster:
        with Client(cluster.scheduler_address, set_as_default=False) as client:
            workers = sorted(client.run(os.getpid).values())
        killed: list[int] = []

        def kill() -> None:
            # In the middle: the first of the workers that has begun its third task.
            begun: list[int] = []

            def third() -> bool:
                begun[:] = [pids[-1] for pids in source.started().values() if pids]
                return any(begun.count(pid) >= 3 for pid in workers)

            wait_until(third)
            killed.append(next(pid for pid in workers if begun.count(pid) >= 3))
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        run_on = ExecutorConfig("dask", cluster.scheduler_address)
        prepare(source, tmp_path / "shards", rules=RULES, run_on=run_on, watchdog=WatchdogConfig())
        killer.join()
    assert read_tree(tmp_path / "shards") == read_tree(tmp_path / "alone")
    started = source.started()
    by_worker = {pid: sum(pid in pids for pids in started.values()) for pid in workers}
    # The others took over, and none of them waited for the third.
    assert all(by_worker[pid] for pid in workers)
    assert sum(by_worker[pid] for pid in workers if pid not in killed) > by_worker[killed[0]]
    again = [pids for pids in started.values() if len(pids) > 1]
    # A task that was finished before the kill does not run again.
    assert len(again) <= 1
    assert all(pids[0] == killed[0] != pids[1] for pids in again)
