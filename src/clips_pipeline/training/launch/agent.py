"""The torchrun agent of this machine: `python -m clips_pipeline.training.launch.agent RUN_SPEC.json`, a child of the follower.

torchelastic starts the ranks, watches them, keeps their output apart, and starts all of them again when one has failed and
`launch.restarts` allows it. Ours are three things that the `torchrun` command cannot do: its store listens on loopback alone;
a SIGTERM is passed on without its limit of 30 s, since a checkpoint may take longer; exit codes are kept for the follower.
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
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public all the same
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

from clips_pipeline.training.launch import worker_main
from clips_pipeline.training.launch.exit_status import EXIT_CODES, LOGS, WORKER
from clips_pipeline.training.run_spec import load_spec

_LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.1
_GPU_DRIVER = Path("/dev/nvidiactl")


class LoopbackRendezvous(RendezvousHandler):
    """The rendezvous of one machine: no other agent to wait for, only a store that the ranks share with this one.

    torchelastic's own (`c10d`) listens on all interfaces. The listening socket is made here, so that its port is never free
    between its choice and its use.
    """

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id

    def get_backend(self) -> str:
        """Its name in the registry."""
        return "loopback"

    @property
    def use_agent_store(self) -> bool:
        """Ranks connect to this store and open none of their own."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """At once, with a new store: the ranks' keys of an attempt that failed would be taken for those of the next."""
        with socket.create_server((_LOOPBACK, 0)) as server:
            port: int = server.getsockname()[1]
            descriptor = server.detach()
        # Only the older of torch's two servers takes a socket that listens already.
        store = TCPStore(
            _LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor, use_libuv=False
        )
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(_LOOPBACK, port))

    def is_closed(self) -> bool:
        """Never."""
        return False

    def set_closed(self) -> None:
        """Nobody else to tell."""

    def num_nodes_waiting(self) -> int:
        """None."""
        return 0

    def get_run_id(self) -> str:
        """As configured."""
        return self._run_id

    def shutdown(self) -> bool:
        """Nothing to close but the store, which ends with the process."""
        return True


def _forked_rank(agent: int, stdin: int, module: str, path: str) -> None:
    """`python -m MODULE PATH` in a fork of the agent, which has loaded torch and Composer already.

    Args:
        agent: its process.
        stdin: the agent's standard input under another number, since `multiprocessing` closes 0.
        module: of the rank.
        path: of the run spec.
    """
    os.setsid()
    os.dup2(stdin, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # torch sends it when the agent dies; the rank sees that on its own
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    sys.argv = [module, path]
    sys.modules.pop(module, None)  # of the agent; `runpy` would warn that it is there
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception:
        traceback.print_exc()  # into the rank's own log
        raise
    # torch waits now until all ranks are done, which an agent that is gone cannot tell.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getppid() != agent:
        os._exit(0)


class _Launch(threading.Thread):
    """`elastic_launch` beside the main thread: in the main thread it would answer SIGTERM by its own rule.

    Args:
        path: the run spec.
        fork: start the ranks as forks of this process, not as commands.
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
        self._launch = elastic_launch(config, _forked_rank if fork else sys.executable)
        self._arguments = (os.getpid(), os.dup(0), WORKER, str(path)) if fork else ("-u", "-m", WORKER, str(path))
        self._fork = fork
        self.failures: Mapping[int, ProcessFailure] = {}
        self.code = 0

    def run(self) -> None:
        """Until the last attempt has ended."""
        if self._fork:
            # A SIGTERM that comes before a fork has its own handlers waits until then.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            self._launch(*self._arguments)
        except ChildFailedError as error:
            print(error, file=sys.stderr)
            self.failures, self.code = error.failures, 1
        except BaseException:
            traceback.print_exc()
            self.code = 1


def _kill_group(pid: int) -> None:
    """End what a rank has started: its loaders outlive a rank that was killed for seconds, until they look for it."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _kill_loaders_if_dead(rank: psutil.Process) -> None:
    """Do so as soon as the rank is dead: a loader holds the pipe by which torch sees that a forked rank has ended."""
    with suppress(psutil.NoSuchProcess):
        if rank.status() == psutil.STATUS_ZOMBIE:
            _kill_group(rank.pid)


def main(arguments: list[str]) -> int:
    """Run the ranks of a spec.

    Returns:
        the exit code: 0 if all ranks ended with 0. Otherwise `EXIT_CODES` in the run folder has those of the ranks that failed.
    """
    path = Path(arguments[0])
    asked = threading.Event()
    # torch and Composer are loaded once, for the agent and all ranks (docs/performance.md, Start). CUDA does not outlive a
    # fork, and what other packages do with it while they are loaded is not known.
    fork = not _GPU_DRIVER.exists()
    if fork:
        worker_main.load_rank()
    # Only now: Composer, too, puts a handler there when it is loaded.
    signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    launch, seen, told = _Launch(path, fork=fork), set[int](), set[int]()
    launch.start()
    while launch.is_alive():
        # Of every attempt: one that begins after the SIGTERM is asked to end as well. That the follower is gone the ranks see
        # by themselves, since they inherit its pipe.
        for rank in psutil.Process().children():
            seen.add(rank.pid)
            _kill_loaders_if_dead(rank)
            if asked.is_set() and rank.pid not in told:
                told.add(rank.pid)
                with suppress(psutil.NoSuchProcess):
                    rank.terminate()
        launch.join(_POLL_SECONDS)
    for pid in seen:
        _kill_group(pid)
    codes = {rank: {"pid": failure.pid, "code": failure.exitcode} for rank, failure in launch.failures.items()}
    (path.parent / EXIT_CODES).write_text(json.dumps(codes))
    return launch.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
