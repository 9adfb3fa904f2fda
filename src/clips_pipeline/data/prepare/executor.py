"""Execution of independent jobs: in this process, in a process pool, or on a Dask cluster.

A job writes its result to a file and is done when that file exists. So nothing is returned, running a job twice is
harmless, and after a crash only the missing jobs run again.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from clips_pipeline.config import ConfigError

log = logging.getLogger(__name__)

# Limit on consecutive crashes of the process pool without a finished job in between.
_MAX_CRASHES = 3
_LOG_INTERVAL_S = 30.0
_PARENT_CHECK_INTERVAL_S = 0.5
_WORKER_TIMEOUT_S = 60


class MappableJob(Protocol):
    """A job that `map_jobs` can run. Must be picklable."""

    @property
    def is_done(self) -> bool:
        """Whether the result exists."""
        ...


J = TypeVar("J", bound=MappableJob)
MapFunction = Callable[[Callable[[Any], None], Sequence[MappableJob]], None]
"""`map_jobs` for a given executor."""


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
    function: Callable[[J], None], jobs: Sequence[J], *, processes: int = 1, run_on: ExecutorConfig = ExecutorConfig()
) -> None:
    """Run `function` on every unfinished job.

    Args:
        function: a module-level function, so that other processes can import it.
        jobs: in any order.
        processes: size of the process pool; 1 runs the jobs in this process. A cluster uses all its workers.
        run_on: the executor.

    Raises:
        ConfigError: processes crash repeatedly before they finish a job, or no cluster answers at the address.
        Exception: any error of `function`. Jobs finished before it stay done.
    """
    pending = [job for job in jobs if not job.is_done]
    if len(pending) < len(jobs):
        log.info("%d of %d jobs are done already", len(jobs) - len(pending), len(jobs))
    if not pending:
        return
    if run_on.engine == "dask":
        _run_on_cluster(function, pending, run_on)
    elif processes == 1 or len(jobs) == 1:
        for job in pending:
            function(job)
    else:
        _run_in_processes(function, pending, processes)


def _run_in_processes(function: Callable[[J], None], pending: list[J], processes: int) -> None:
    # loky starts clean processes: they inherit no threads and do not import the main script.
    from joblib.externals.loky import ProcessPoolExecutor

    crashes = 0
    while pending:
        pool = ProcessPoolExecutor(min(processes, len(pending)), initializer=_exit_with_parent, initargs=(os.getpid(),))
        try:
            _wait_for_all([pool.submit(function, job) for job in pending], as_completed)
            return
        except BrokenProcessPool as error:
            remaining = [job for job in pending if not job.is_done]
            crashes = 1 if len(remaining) < len(pending) else crashes + 1
            if crashes == _MAX_CRASHES:
                raise ConfigError(
                    f"a process was killed {crashes} times before it finished a job, probably because memory ran out; lower "
                    "`processes`, or make shards smaller. Finished jobs are kept: the same command resumes"
                ) from error
            log.warning("a process was killed; retrying the %d jobs that are left", len(remaining))
            pending = remaining
        finally:
            pool.shutdown(wait=True, kill_workers=True)


def _run_on_cluster(function: Callable[[J], None], pending: list[J], run_on: ExecutorConfig) -> None:
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
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKER_TIMEOUT_S)
            # Not `get_executor`: its futures fail if a worker dies just after its job is done (distributed 2026.8).
            _wait_for_all(client.map(function, pending, pure=False), partial(completed_on_cluster, loop=client.loop))
        except TimeoutError as error:
            raise ConfigError(f"run_on.address: the cluster at {run_on.address} has no workers ({error})") from None
        except CancelledError:
            raise ConfigError(
                f"run_on.address: the scheduler at {run_on.address} stopped; start it again. Finished jobs are kept: the same "
                "command resumes"
            ) from None
        except KilledWorker as error:
            raise ConfigError(
                f"workers of the cluster were killed repeatedly by one job, probably because memory ran out ({error}); give "
                "them more memory, or make shards smaller. Finished jobs are kept: the same command resumes"
            ) from None


def _wait_for_all(futures: Sequence[Any], completed: Callable[[Sequence[Any]], Iterable[Any]]) -> None:
    """Wait for all futures, which `completed` yields as they finish. The first error cancels those that wait."""
    last_logged = time.monotonic()
    try:
        for number, future in enumerate(completed(futures), 1):
            future.result()
            if time.monotonic() - last_logged > _LOG_INTERVAL_S:
                last_logged = time.monotonic()
                log.info("%d of %d jobs done", number, len(futures))
    finally:
        for future in futures:
            future.cancel()


def _exit_with_parent(parent: int) -> None:
    """Exit this process when its parent exits, even if the parent was killed.

    Otherwise it would continue to write to a folder that another run may use by then.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_INTERVAL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
