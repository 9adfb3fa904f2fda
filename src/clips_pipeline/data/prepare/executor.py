"""Jobs that do not depend on each other: in this process, in processes beside it, or on a Dask cluster.

A job leaves its result in a file and is done when that is there. So nothing has to come back, a job may be done twice, and
after a crash only what is missing is done again.
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

# Processes that end in a row without one job done in between.
_MAX_CRASHES = 3
_LOG_INTERVAL_S = 30.0
_PARENT_CHECK_INTERVAL_S = 0.5
_WORKER_TIMEOUT_S = 60


class MappableJob(Protocol):
    """What can be mapped. Must pickle."""

    @property
    def is_done(self) -> bool:
        """Whether its result is there."""
        ...


J = TypeVar("J", bound=MappableJob)
MapFunction = Callable[[Callable[[Any], None], Sequence[MappableJob]], None]
"""`map_jobs` with its engine chosen."""


@dataclass(frozen=True)
class ExecutorConfig:
    """Where jobs are run.

    Attributes:
        engine: `processes` of this machine, or a `dask` cluster that is there already, with this project installed on every
            worker and the folder of shards on a file system that all of them share.
        address: of Dask's scheduler, such as `tcp://10.0.0.1:8786`.
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
    """Run `function` on every job that is not done.

    Args:
        function: at the top of a module, for other processes to find it.
        jobs: in any order.
        processes: working side by side on this machine; 1 works in this process. A cluster uses all that it has.
        run_on: which engine.

    Raises:
        ConfigError: processes end again and again before they finish a job, or there is no cluster at the address.
        Exception: what `function` raises. Jobs done until then stay done.
    """
    waiting = [job for job in jobs if not job.is_done]
    if len(waiting) < len(jobs):
        log.info("%d of %d jobs are done already", len(jobs) - len(waiting), len(jobs))
    if not waiting:
        return
    if run_on.engine == "dask":
        _run_on_cluster(function, waiting, run_on)
    elif processes == 1 or len(jobs) == 1:
        for job in waiting:
            function(job)
    else:
        _run_in_processes(function, waiting, processes)


def _run_in_processes(function: Callable[[J], None], waiting: list[J], processes: int) -> None:
    # loky's, because its processes start clean: they neither inherit threads nor import the script that was started.
    from joblib.externals.loky import ProcessPoolExecutor

    crashes = 0
    while waiting:
        pool = ProcessPoolExecutor(min(processes, len(waiting)), initializer=_exit_with_parent, initargs=(os.getpid(),))
        try:
            _wait_for_all([pool.submit(function, job) for job in waiting], as_completed)
            return
        except BrokenProcessPool as error:
            left = [job for job in waiting if not job.is_done]
            crashes = 1 if len(left) < len(waiting) else crashes + 1
            if crashes == _MAX_CRASHES:
                raise ConfigError(
                    f"a process was killed {crashes} times before it finished a job, probably because memory was short; give "
                    "fewer `processes`, or make shards smaller. What is done is kept: the same command goes on from there"
                ) from error
            log.warning("a process was killed; %d jobs are left, trying them again", len(left))
            waiting = left
        finally:
            pool.shutdown(wait=True, kill_workers=True)


def _run_on_cluster(function: Callable[[J], None], waiting: list[J], run_on: ExecutorConfig) -> None:
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
            # Not `get_executor`: its futures fail where a worker dies just after a job is done (distributed 2026.8).
            _wait_for_all(client.map(function, waiting, pure=False), partial(completed_on_cluster, loop=client.loop))
        except TimeoutError as error:
            raise ConfigError(f"run_on.address: the cluster at {run_on.address} has no workers ({error})") from None
        except CancelledError:
            raise ConfigError(
                f"run_on.address: the scheduler at {run_on.address} went away; start it again. What is done is kept: the same "
                "command goes on from there"
            ) from None
        except KilledWorker as error:
            raise ConfigError(
                f"workers of the cluster were killed again and again by one job, probably because memory was short ({error}). "
                "What is done is kept: the same command goes on from there"
            ) from None


def _wait_for_all(futures: Sequence[Any], completed: Callable[[Sequence[Any]], Iterable[Any]]) -> None:
    """Until all are done; `completed` yields them as they are. The first error cancels what has not begun."""
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
    """Make this process end when its parent does, however that one was killed.

    It would otherwise finish its job and wait for more, in a folder that another run may own by then.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_INTERVAL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
