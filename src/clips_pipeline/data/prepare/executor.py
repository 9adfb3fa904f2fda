"""Execution of independent jobs: in this process, in a process pool, or on a Dask cluster.

A job writes its result to a file and is done when that file exists. So nothing is returned, running a job twice is
harmless, and after a crash only the missing jobs run again.
"""

import logging
import signal
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.worker_pool import WorkerPool
from clips_pipeline.progress import Stage

log = logging.getLogger(__name__)

# Limit on consecutive kills of processes without a finished job, or another finding of a watchdog, in between.
_MAX_CRASHES = 3
_WORKER_TIMEOUT_S = 60


class MappableJob(Protocol):
    """A job that `map_jobs` can run. Must be picklable."""

    @property
    def is_done(self) -> bool:
        """Whether the result exists."""
        ...

    @property
    def progress(self) -> str | None:
        """What the watchdog has noted so far; None without a watchdog, which needs a process of its own."""
        ...


J = TypeVar("J", bound=MappableJob)
MapFunction = Callable[..., None]
"""`map_jobs` for a given executor: takes a function, jobs, and `stage`."""


@dataclass(frozen=True)
class ExecutorConfig:
    """Where jobs run.

    Attributes:
        engine: `processes` on this machine, or a running `dask` cluster. On a cluster, this project must be installed
            on every worker and the folder of shards must be on a file system that all workers share.
        address: address of Dask's scheduler, such as `tcp://10.0.0.1:8786`.
    """

    engine: Literal["processes", "dask"] = "processes"
    address: str | None = None

    def __post_init__(self) -> None:
        if (self.engine == "dask") != (self.address is not None):
            raise ConfigError(
                f"engine is {self.engine!r} and address is {self.address!r}; `dask` needs the address of its scheduler, "
                "`processes` has none"
            )


def map_jobs(
    function: Callable[[J], None],
    jobs: Sequence[J],
    *,
    processes: int = 1,
    run_on: ExecutorConfig = ExecutorConfig(),
    stage: Stage | None = None,
) -> None:
    """Run `function` on every unfinished job.

    Args:
        function: a module-level function, so that other processes can import it.
        jobs: in any order.
        processes: size of the process pool; 1 runs the jobs in this process, unless they have a watchdog. A cluster
            uses all its workers.
        run_on: the executor.
        stage: counts the jobs that are done.

    Raises:
        ConfigError: processes crash repeatedly before they finish a job, or no cluster answers at the address.
        Exception: any error of `function`. Jobs finished before it stay done.
    """
    pending = [job for job in jobs if not job.is_done]
    if len(pending) < len(jobs):
        log.info("%d of %d jobs are done already", len(jobs) - len(pending), len(jobs))
        if stage is not None:
            stage.advance(len(jobs) - len(pending))
    if not pending:
        return
    count: Callable[[], None] = (lambda: None) if stage is None else stage.advance
    if run_on.engine == "dask":
        _run_on_cluster(function, pending, run_on, count)
    elif pending[0].progress is None and (processes == 1 or len(jobs) == 1):
        for job in pending:
            function(job)
            count()
    else:
        _run_in_processes(function, pending, processes, count)


def _run_in_processes(
    function: Callable[[J], None], pending: list[J], processes: int, count: Callable[[], None]
) -> None:
    waiting, kills = deque(pending), _Kills()
    with WorkerPool(function, processes) as pool:
        for job, exit_code in pool.run(waiting):
            if exit_code is None or job.is_done:
                kills.in_a_row = 0
                count()
                continue
            end = _describe_end(exit_code)
            if not kills.may_go_on([job]):
                raise ConfigError(
                    f"a process was killed {_MAX_CRASHES} times before it finished a job, probably because memory ran out "
                    f"({end}); lower `processes`, or make shards smaller. Finished jobs are kept: the same command resumes"
                )
            log.warning(
                "a process was killed (%s)%s; its job starts again", end, f" at {job.progress}" if job.progress else ""
            )
            waiting.append(job)


def _describe_end(exit_code: int) -> str:
    known = -exit_code in set(signal.Signals)
    return signal.Signals(-exit_code).name if known else f"exit code {exit_code}"


class _Kills:
    """Kills of processes in a row: without a finished job, and without a new finding of a watchdog."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self._seen: dict[int, str | None] = {}

    def may_go_on(self, jobs: Iterable[MappableJob], allowed: int = _MAX_CRASHES - 1) -> bool:
        """Count the end of a process that ran one of these jobs; return whether no more than `allowed` were in a row."""
        changed = False
        for job in jobs:
            progress = job.progress
            changed |= progress != self._seen.get(id(job))
            self._seen[id(job)] = progress
        self.in_a_row = 0 if changed else self.in_a_row + 1
        return self.in_a_row <= allowed


def _run_on_cluster(
    function: Callable[[J], None], pending: list[J], run_on: ExecutorConfig, count: Callable[[], None]
) -> None:
    try:
        from distributed import Client, KilledWorker
        from distributed import as_completed as completed_on_cluster
    except ImportError:
        raise ConfigError(
            "run_on.engine: `dask` needs the package `distributed`; install clips-pipeline[cluster]"
        ) from None
    try:
        client = Client(run_on.address, set_as_default=False)
    except OSError as error:
        raise ConfigError(f"run_on.address: no scheduler answers at {run_on.address} ({error})") from None
    kills = _Kills()
    with client:
        while pending:
            try:
                client.wait_for_workers(1, timeout=_WORKER_TIMEOUT_S)
                # Not `get_executor`: its futures fail if a worker dies just after its job is done (distributed 2026.8).
                _wait_for_all(
                    client.map(function, pending, pure=False), partial(completed_on_cluster, loop=client.loop), count
                )
                return
            except TimeoutError as error:
                raise ConfigError(f"run_on.address: the cluster at {run_on.address} has no workers ({error})") from None
            except CancelledError:
                raise ConfigError(
                    f"run_on.address: the scheduler at {run_on.address} stopped; start it again. Finished jobs are kept: the "
                    "same command resumes"
                ) from None
            except KilledWorker as error:
                pending = [job for job in pending if not job.is_done]
                # The scheduler has counted several kills already.
                if not kills.may_go_on(pending, 0):
                    raise ConfigError(
                        f"workers of the cluster were killed repeatedly by one job, probably because memory ran out ({error}); "
                        "give them more memory, or make shards smaller. Finished jobs are kept: the same command resumes"
                    ) from None
                log.warning(
                    "workers of the cluster were killed (%s); the %d jobs left start again", error, len(pending)
                )


def _wait_for_all(
    futures: Sequence[Any], completed: Callable[[Sequence[Any]], Iterable[Any]], count: Callable[[], None]
) -> None:
    """Wait for all futures, which `completed` yields as they finish. The first error cancels those that wait."""
    try:
        for future in completed(futures):
            future.result()
            count()
    finally:
        for future in futures:
            future.cancel()
