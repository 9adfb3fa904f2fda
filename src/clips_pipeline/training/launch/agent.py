"""Torchrun's agent on this machine: `python -m clips_pipeline.training.launch.agent RUN_SPEC.json`, a child of the launcher.

torchelastic starts the ranks, watches them, separates their output, and restarts all of them when one has failed and
`launch.restarts` allows it. This module adds three things that the `torchrun` command cannot do: the store listens on loopback
only; a SIGTERM reaches the ranks without torchelastic's limit of 30 s, since a checkpoint may take longer; exit codes are written
to a file for the launcher.
"""

import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not typed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from clips_pipeline.io.terminal import protect_output, safe_text
from clips_pipeline.training.launch import worker_main
from clips_pipeline.training.launch.result import EXIT_CODES, LOGS, RANK_MODULE
from clips_pipeline.training.run_spec import load_spec

_LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.1
_CHECKS_PER_POLL = 5


class LoopbackRendezvous(RendezvousHandler):
    """Rendezvous of one machine: there is no other agent to wait for, only a store that the ranks share.

    torchelastic's own rendezvous (`c10d`) listens on all interfaces. This class opens the listening socket itself, so no other
    process can take the port between its choice and its use.
    """

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id

    def get_backend(self) -> str:
        """Return its name in the registry."""
        return "loopback"

    @property
    def use_agent_store(self) -> bool:
        """True: ranks connect to this store and open none of their own."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Return at once, with a new store: the next attempt must not read the keys of one that failed."""
        with socket.create_server((_LOOPBACK, 0)) as server:
            port: int = server.getsockname()[1]
            descriptor = server.detach()
        # Only the older of torch's two servers (`use_libuv=False`) takes a socket that already listens.
        store = TCPStore(
            _LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor, use_libuv=False
        )
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(_LOOPBACK, port))

    def is_closed(self) -> bool:
        """Return False: it is never closed."""
        return False

    def set_closed(self) -> None:
        """Do nothing: there is no other agent to inform."""

    def num_nodes_waiting(self) -> int:
        """Return 0: no other machine takes part."""
        return 0

    def get_run_id(self) -> str:
        """Return the configured run id."""
        return self._run_id

    def shutdown(self) -> bool:
        """Do nothing: the store closes with the process."""
        return True


def _run_forked_rank(agent: int, stdin: int, module: str, path: str) -> None:
    """Run `python -m MODULE PATH` in a fork of the agent, which has already imported torch and Composer.

    Args:
        agent: process of the agent.
        stdin: duplicate of the agent's standard input, since `multiprocessing` closes descriptor 0.
        module: module of the rank.
        path: file of the run spec.
    """
    os.setsid()
    os.dup2(stdin, 0)
    # torch sends SIGINT when the agent dies. The rank notices that from its standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    sys.argv = [module, path]
    sys.modules.pop(module, None)  # the agent has imported it; `runpy` would warn
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception:
        traceback.print_exc()  # into the log of this rank
        raise
    # torch now waits until the agent reports that all ranks are done. An agent that has died cannot report it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getppid() != agent:
        os._exit(0)


class _AgentThread(threading.Thread):
    """Runs `elastic_launch` outside the main thread, where it would install its own SIGTERM handler.

    Args:
        path: file of the run spec.
        fork: start the ranks as forks of this process instead of commands.
    """

    def __init__(self, path: Path, *, fork: bool) -> None:
        super().__init__(name="elastic")
        spec = load_spec(path)
        rendezvous_handler_registry.register("loopback", LoopbackRendezvous)
        logs = DefaultLogsSpecs(log_dir=str(Path(spec.run_folder) / LOGS), redirects=Std.ALL)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=spec.train.launch.processes,
            logs_specs=logs,
            run_id=time.strftime("%Y%m%dT%H%M%S"),
            rdzv_backend="loopback",
            max_restarts=spec.train.launch.restarts,
            local_addr=_LOOPBACK,
            start_method="fork",
        )
        self._launch = elastic_launch(config, _run_forked_rank if fork else sys.executable)
        self._arguments = (
            (os.getpid(), os.dup(0), RANK_MODULE, str(path)) if fork else ("-u", "-m", RANK_MODULE, str(path))
        )
        self._fork = fork
        self.failures: Mapping[int, ProcessFailure] = {}
        self.code = 0

    def run(self) -> None:
        """Run until the last attempt has ended."""
        if self._fork:
            # A SIGTERM that arrives before a fork has installed its own handler stays pending until then.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            self._launch(*self._arguments)
        except ChildFailedError as error:
            print(safe_text(str(error)), file=sys.stderr)
            self.failures, self.code = _first_failures(error.failures), 1
        except BaseException:
            print(safe_text(traceback.format_exc()), file=sys.stderr)
            self.code = 1


def _first_failures(failures: Mapping[int, ProcessFailure]) -> dict[int, ProcessFailure]:
    """Return the ranks that failed first. Newer releases of torch also list those that the agent then stopped."""
    first = min(failure.timestamp for failure in failures.values())
    found = {rank: failure for rank, failure in failures.items() if failure.timestamp == first}
    unasked = {rank: failure for rank, failure in found.items() if failure.exitcode != -signal.SIGTERM}
    return unasked or found


def _kill_group(pid: int) -> None:
    """Kill the process group of a rank. Its loader workers would outlive a killed rank by seconds."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _kill_loaders_of_dead_rank() -> None:
    """Kill the loaders of a rank that has just died: they hold the pipe by which torch sees that a forked rank has ended.

    Checked often, so that torch sees this rank before the peers that fail because of it. The rank itself is not reaped here.
    """
    with suppress(ChildProcessError):
        dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if dead is not None:
            _kill_group(dead.si_pid)


def main(arguments: list[str]) -> int:
    """Run the ranks of a run spec.

    Returns:
        The exit code: 0 if all ranks ended with 0. Otherwise `EXIT_CODES` in the run folder has those of the ranks that failed.
    """
    protect_output()
    path = Path(arguments[0])
    terminate = threading.Event()
    # torch and Composer are imported once, for the agent and all ranks (docs/explanation/performance.md, "Start"). CUDA does
    # not survive a fork, and other packages may initialize it on import; hence no forks where there is a GPU driver.
    fork = not worker_main.GPU_DRIVER.exists()
    if fork:
        worker_main.load_rank()
    # After the import of Composer, which installs its own handler.
    signal.signal(signal.SIGTERM, lambda number, frame: terminate.set())
    thread, started, terminated = _AgentThread(path, fork=fork), set[int](), set[int]()
    thread.start()
    while thread.is_alive():
        # Of every attempt: ranks that start after the SIGTERM get it as well. Ranks inherit the pipe of the launcher, so they
        # notice without the agent when the launcher has died.
        for rank in psutil.Process().children():
            started.add(rank.pid)
            if terminate.is_set() and rank.pid not in terminated:
                terminated.add(rank.pid)
                with suppress(psutil.NoSuchProcess):
                    rank.terminate()
        for _ in range(_CHECKS_PER_POLL):
            _kill_loaders_of_dead_rank()
            thread.join(_POLL_SECONDS / _CHECKS_PER_POLL)
    for pid in started:
        _kill_group(pid)
    codes = {rank: {"pid": failure.pid, "code": failure.exitcode} for rank, failure in thread.failures.items()}
    (path.parent / EXIT_CODES).write_text(json.dumps(codes))
    return thread.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
