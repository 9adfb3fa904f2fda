"""Processes that run one job at a time. A process that is killed loses its own job alone, and the caller learns which.

In the pools of `concurrent.futures` and loky, a process that is killed ends the work of all others too, and nobody
learns its job.
"""

import copy
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Generic, TypeVar

from clips_pipeline.io.terminal import protect_output

J = TypeVar("J")

_PARENT_CHECK_INTERVAL_S = 0.5


@dataclass
class _Worker(Generic[J]):
    process: Any
    connection: Connection
    job: J | None = None


class WorkerPool(Generic[J]):
    """A context in which processes run `function` on jobs.

    Args:
        function: a module-level function, so that other processes can import it.
        processes: limit on the number of processes.
    """

    def __init__(self, function: Callable[[J], None], processes: int) -> None:
        self._function, self._processes = function, processes
        self._workers: list[_Worker[J]] = []

    def run(self, waiting: deque[J]) -> Iterator[tuple[J, int | None]]:
        """Run jobs until none waits, and yield each that ended with None, or with the exit code of its killed process.

        Args:
            waiting: jobs to run; the caller may add some while it iterates.

        Raises:
            Exception: any error of the function; the remote traceback is its cause.
        """
        while waiting or any(worker.job is not None for worker in self._workers):
            for worker in self._workers:
                if worker.job is None and waiting:
                    self._give(worker, waiting.popleft())
            while waiting and len(self._workers) < self._processes:
                self._workers.append(self._start())
                self._give(self._workers[-1], waiting.popleft())
            # A killed process closes its end of the connection.
            ready = wait([worker.connection for worker in self._workers if worker.job is not None])
            for worker in list(self._workers):
                if worker.job is not None and worker.connection in ready:
                    job, worker.job = worker.job, None
                    yield job, self._outcome(worker)

    def _outcome(self, worker: _Worker[J]) -> int | None:
        try:
            found = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            worker.connection.close()
            self._workers.remove(worker)
            return int(worker.process.exitcode)
        if found is not None:
            error, text = found
            raise error from RuntimeError(f"in a process of the pool:\n{text}")
        return None

    def _start(self) -> _Worker[J]:
        # loky starts clean processes: they inherit no threads and do not import the main script.
        from joblib.externals.loky.backend import get_context

        context = get_context("loky")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _give(self, worker: _Worker[J], job: J) -> None:
        worker.job = job
        try:
            worker.connection.send((self._function, job))
        except (BrokenPipeError, ConnectionResetError):
            # It was killed while it had no job; `run` finds its connection closed.
            return

    def __enter__(self) -> "WorkerPool[J]":
        """Return the pool; processes are started as jobs need them."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes."""
        for worker in self._workers:
            # loky's processes lack `kill`.
            with suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGKILL)
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()


def _work(connection: Connection, parent: int) -> None:
    # Ctrl-C reaches the whole process group; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    protect_output()
    _exit_with_parent(parent)
    while True:
        try:
            function, job = connection.recv()
        except EOFError:
            return
        try:
            function(job)
        except Exception as error:
            _send_error(connection, error, traceback.format_exc())
        else:
            connection.send(None)


def _send_error(connection: Connection, error: Exception, text: str) -> None:
    try:
        copy.copy(error)  # shows whether the parent process can build it
        connection.send((error, text))
    except Exception:
        connection.send((RuntimeError(f"{type(error).__name__}: {error}"), text))


def _exit_with_parent(parent: int) -> None:
    """Exit this process when its parent exits, even if the parent was killed.

    Otherwise it would continue to write to a folder that another run may use by then.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_INTERVAL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
