"""Jobs in other processes and on a cluster: a kill loses and doubles no result, and no finished job runs again."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.data.hostile_work import HostileSource
from tests.unit.data.samples import read_tree
from tests.unit.data.work import WorkSource, wait_until

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare import run as prepare_module
from clips_pipeline.data.prepare.assemble import finish
from clips_pipeline.data.prepare.executor import ExecutorConfig
from clips_pipeline.data.prepare.filters import FilterConfig, SampleRules
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.watchdog import WatchdogConfig

RULES = SampleRules(filters=FilterConfig(duplicate_images=True))


@pytest.fixture
def work(tmp_path: Path) -> WorkSource:
    (tmp_path / "flags").mkdir()
    return WorkSource(tmp_path / "flags")


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """The result of one undisturbed process."""
    (tmp_path / "quiet").mkdir()
    prepare(WorkSource(tmp_path / "quiet"), tmp_path / "expected", rules=RULES)
    return read_tree(tmp_path / "expected")


def test_jobs_of_a_killed_process_run_again(tmp_path: Path, work: WorkSource, expected: dict[str, bytes]) -> None:
    work.kill(2)
    prepare(work, tmp_path / "shards", processes=2, rules=RULES)
    assert read_tree(tmp_path / "shards") == expected
    begun = [work.started(number) for number in range(work.count)]
    assert len(begun[2]) == 2
    assert begun[2][0] != begun[2][1]
    # The other process had at most one unfinished job.
    assert sum(map(len, begun)) <= work.count + 2
    assert all(not Path("/proc", str(pid)).exists() for pids in begun for pid in pids)


def test_job_that_kills_every_process_is_an_error_and_other_jobs_stay_done(
    tmp_path: Path, work: WorkSource, expected: dict[str, bytes]
) -> None:
    work.kill(5, times=99)
    with pytest.raises(ConfigError, match=r"killed 3 times.*memory.*same command resumes"):
        prepare(work, tmp_path / "shards", processes=2, rules=RULES)
    done = [len(work.started(number)) for number in range(5)]
    (work.folder / "kill-5").unlink()
    prepare(work, tmp_path / "shards", processes=2, rules=RULES)
    assert [len(work.started(number)) for number in range(5)] == done
    assert read_tree(tmp_path / "shards") == expected


RUN = """
import sys
from pathlib import Path
from clips_pipeline.data.prepare.filters import FilterConfig, SampleRules
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.watchdog import WatchdogConfig
from tests.unit.data.work import WorkSource
rules = SampleRules(filters=FilterConfig(duplicate_images=True))
prepare(WorkSource(Path(sys.argv[1])), Path(sys.argv[2]), processes=int(sys.argv[3]), rules=rules)
"""


def environment(repository: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{repository / 'src'}:{repository}"}


@pytest.mark.parametrize("processes", [1, 2])
def test_after_a_kill_the_next_run_does_the_missing_jobs(
    tmp_path: Path, repository: Path, work: WorkSource, expected: dict[str, bytes], processes: int
) -> None:
    held = [work.pause(number) for number in (3, 4)]
    command = [sys.executable, "-c", RUN, str(work.folder), str(tmp_path / "shards"), str(processes)]
    running = subprocess.Popen(command, env=environment(repository))
    try:
        wait_until(lambda: all(work.started(number) for number in range(3 + processes)))
        done = sorted(file.stem for file in (tmp_path / ".shards.partial" / "jobs" / "train").glob("*.json"))
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert done == ["000000", "000001", "000002"]
    # Workers exit after their parent was killed, and write nothing more.
    pids = {pid for number in range(work.count) for pid in work.started(number)}
    wait_until(lambda: not any(Path("/proc", str(pid)).exists() for pid in pids))
    for file in held:
        file.unlink()
    prepare(work, tmp_path / "shards", rules=RULES)
    assert [len(work.started(number)) for number in range(work.count)] == [1, 1, 1, 2, processes, 1]
    assert read_tree(tmp_path / "shards") == expected
    assert not (tmp_path / ".shards.partial").exists()


@pytest.mark.parametrize("steps", range(14))
def test_after_a_stop_at_any_final_step_no_job_runs_again(
    tmp_path: Path, work: WorkSource, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Stop at every rename and removal, from the first shard that gets its final name to the whole folder."""
    (tmp_path / "old").mkdir()
    prepare(WorkSource(tmp_path / "old", count=1), tmp_path / "shards")
    before = read_tree(tmp_path / "shards")
    left = steps

    class StopError(BaseException):
        pass

    def stop_after(change: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            nonlocal left
            if left == 0:
                raise StopError
            left -= 1
            return change(*arguments)

        return run

    def stopping(*arguments: object) -> None:
        for name in ("rename", "unlink"):
            monkeypatch.setattr(Path, name, stop_after(getattr(Path, name)))
        finish(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare_module, "finish", stopping)
    try:
        prepare(work, tmp_path / "shards", rules=RULES)
    except StopError:
        # The old shards, unless the run was stopped between the two renames.
        assert not (tmp_path / "shards").exists() or read_tree(tmp_path / "shards") == before
    monkeypatch.undo()
    prepare(work, tmp_path / "shards", rules=RULES)
    assert read_tree(tmp_path / "shards") == expected
    assert sorted(path.name for path in tmp_path.iterdir() if "shards" in path.name) == [".shards.lock", "shards"]
    assert [len(work.started(number)) for number in range(work.count)] == [1] * work.count


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A scheduler and two workers, each a separate process with a nanny, on loopback."""
    import dask

    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=str(tmp_path / "dask"),
        ) as found,
    ):
        yield found.scheduler_address


def test_cluster_gives_the_same_bytes_when_a_worker_is_killed(
    tmp_path: Path, work: WorkSource, expected: dict[str, bytes], cluster: str
) -> None:
    work.kill(2)
    prepare(work, tmp_path / "shards", rules=RULES, run_on=ExecutorConfig("dask", cluster))
    assert read_tree(tmp_path / "shards") == expected
    begun = [work.started(number) for number in range(work.count)]
    assert len(set(begun[2])) == 2
    assert os.getpid() not in {pid for pids in begun for pid in pids}
    # The cluster has forgotten the finished jobs of the killed worker, but their results exist: no other job runs
    # again.
    assert [len(pids) for number, pids in enumerate(begun) if number != 2] == [1] * (work.count - 1)


def test_job_that_kills_every_worker_is_an_error_and_other_jobs_stay_done(
    tmp_path: Path, work: WorkSource, expected: dict[str, bytes], cluster: str
) -> None:
    work.kill(5, times=99)
    with pytest.raises(ConfigError, match=r"workers of the cluster were killed.*memory.*same command resumes"):
        prepare(work, tmp_path / "shards", rules=RULES, run_on=ExecutorConfig("dask", cluster))
    done = [len(work.started(number)) for number in range(5)]
    assert len(work.started(5)) == 2
    (work.folder / "kill-5").unlink()
    prepare(work, tmp_path / "shards", rules=RULES, run_on=ExecutorConfig("dask", cluster))
    assert [len(work.started(number)) for number in range(5)] == done
    assert read_tree(tmp_path / "shards") == expected


def test_cluster_goes_on_without_samples_that_hang_or_kill_a_worker(tmp_path: Path, cluster: str) -> None:
    source = HostileSource({0: "die", 2: "hang", 3: "die"}, {})
    run_on, bounds = ExecutorConfig("dask", cluster), WatchdogConfig(sample_seconds=1.0)
    index = prepare(source, tmp_path / "shards", run_on=run_on, watchdog=bounds, max_skipped_fraction=0.5)
    assert index.skips == {"train": {"killed": 2, "too_slow": 1}}
    assert index.split_samples("train") == 15


def test_stopped_scheduler_is_an_error(tmp_path: Path, repository: Path, work: WorkSource) -> None:
    held = work.pause(0)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{found.getsockname()[1]}"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"env": environment(repository), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    begin = [
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        address.rpartition(":")[2],
        "--dashboard-address",
        "127.0.0.1:0",
    ]
    serve = [
        "worker",
        address,
        "--nthreads",
        "1",
        "--no-nanny",
        "--no-dashboard",
        "--local-directory",
        str(tmp_path / "d"),
    ]
    scheduler = subprocess.Popen([*dask, *begin], **quiet)  # type: ignore[call-overload]
    worker = subprocess.Popen([*dask, *serve], **quiet)  # type: ignore[call-overload]

    def end_scheduler() -> None:
        wait_until(lambda: bool(work.started(0)))
        scheduler.kill()

    ending = threading.Thread(target=end_scheduler)
    ending.start()
    try:
        with pytest.raises(ConfigError, match=r"the scheduler at tcp://.* stopped.*same command resumes"):
            prepare(work, tmp_path / "shards", rules=RULES, run_on=ExecutorConfig("dask", address))
    finally:
        held.unlink()
        ending.join()
        for process in (scheduler, worker):
            process.kill()
            process.wait()


def test_missing_scheduler_is_an_error(tmp_path: Path, work: WorkSource) -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}),
        pytest.raises(ConfigError, match=r"run_on\.address: no scheduler answers at tcp://127\.0\.0\.1:9"),
    ):
        prepare(work, tmp_path / "shards", run_on=ExecutorConfig("dask", "tcp://127.0.0.1:9"))


def test_engine_and_address_must_match() -> None:
    with pytest.raises(ConfigError, match="needs the address"):
        ExecutorConfig("dask")
    with pytest.raises(ConfigError, match="has none"):
        ExecutorConfig("processes", "tcp://127.0.0.1:1")
