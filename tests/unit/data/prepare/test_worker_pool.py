"""Processes that run jobs: errors arrive with their traceback, also those that cannot be sent."""

import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
from tests.unit.data.work import wait_until

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.worker_pool import WorkerPool


class UnsendableError(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def work(job: str) -> None:
    if job == "config":
        raise ConfigError("key: wrong; mend it")
    if job == "unsendable":
        raise UnsendableError("this", "that")
    if job.startswith("exit"):
        os._exit(int(job.split()[1]))


def run(*jobs: str, processes: int = 2) -> list[tuple[str, int | None]]:
    with WorkerPool(work, processes) as pool:
        return sorted(pool.run(deque(jobs)))


def test_the_job_of_a_process_that_ended_is_known() -> None:
    assert run("a", "exit 7", "b", "c") == [("a", None), ("b", None), ("c", None), ("exit 7", 7)]


def test_errors_keep_type_and_traceback() -> None:
    with pytest.raises(ConfigError, match="key: wrong; mend it") as found:
        run("config", processes=1)
    assert "in work" in str(found.value.__cause__)
    with pytest.raises(RuntimeError, match="UnsendableError: this and that"):
        run("unsendable", processes=1)


def test_a_killed_pool_leaves_no_process_and_no_semaphore() -> None:
    code = (
        "from collections import deque; from clips_pipeline.data.prepare.worker_pool import WorkerPool; import time\n"
        "with WorkerPool(time.sleep, 2) as pool:\n"
        "    running = pool.run(deque([0, 600, 600])); next(running)\n"
        "    print(*[worker.process.pid for worker in pool._workers], flush=True); next(running)"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    workers = running.stdout.readline().split()
    running.kill()
    running.wait()
    running.stdout.close()
    assert len(workers) == 2
    wait_until(lambda: not any(Path("/proc", pid).exists() for pid in workers))
    assert not list(Path("/dev/shm").glob(f"sem.loky-{running.pid}-*"))  # noqa: S108
