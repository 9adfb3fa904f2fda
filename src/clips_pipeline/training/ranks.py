"""The ranks of one machine as processes: started with the environment that torch.distributed reads, watched, and ended.

Composer's own launcher is not used: it says nothing when a rank was killed by a signal, which is how a machine short of
memory ends one, throws the output of all ranks but the first away, and loads torch and Composer only to start processes.
Loads no torch.
"""

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from clips_pipeline.training.interrupt import PARENT

STOP_GRACE_SECONDS = 20.0
INTERRUPT_GRACE_SECONDS = 120.0
"""For Ctrl-C: a step, and a checkpoint to write."""


class Ranks:
    """Starts a command as `count` ranks; leaving the context ends those that still run.

    Args:
        command: of one rank.
        count: ranks.
        run_folder: where each writes its output: `worker.log` of rank 0, `worker-1.log` of rank 1, and so on.
        environment: of all of them.
    """

    def __init__(self, command: list[str], count: int, run_folder: Path, environment: dict[str, str]) -> None:
        self.logs = [run_folder / log_name(rank) for rank in range(count)]
        self._command, self._environment = command, environment
        self._processes: list[subprocess.Popen[bytes]] = []
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> "Ranks":
        """Start them; each leads a session of its own, so that an interrupt of the terminal does not reach it."""
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
        count = str(len(self.logs))
        try:
            for rank, log in enumerate(self.logs):
                place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
                self._files.append(log.open("ab"))
                self._processes.append(
                    subprocess.Popen(  # noqa: S603  # our own interpreter and module, no shell
                        self._command,
                        # It ends with this process, however that ends; `interrupt` looks at it.
                        stdin=subprocess.PIPE,
                        stdout=self._files[-1],
                        stderr=subprocess.STDOUT,
                        env={**self._environment, **meeting, **place, PARENT: "1"},
                        start_new_session=True,
                    )
                )
        except BaseException:
            self.end()
            raise
        return self

    def running(self) -> bool:
        """Whether all is well and not yet over: False when every rank has ended, and as soon as one has failed."""
        codes = [process.poll() for process in self._processes]
        return None in codes and not any(codes)

    def failed(self, settle_s: float = 0.5) -> tuple[int, int] | None:
        """The rank that failed and its exit code, negative for a signal; None if none has failed.

        Peers of a rank that dies fail too, perhaps sooner than its own end can be seen; so this waits a moment, and takes
        one that a signal ended before others.
        """
        if not any(process.poll() for process in self._processes):
            return None
        time.sleep(settle_s)
        codes = [(rank, process.poll()) for rank, process in enumerate(self._processes)]
        return min(((rank, code) for rank, code in codes if code), key=lambda found: (found[1] > 0, found[0]))

    def terminate(self) -> None:
        """Ask all ranks to save a checkpoint and end. Their loaders are not asked: the step that is trained needs them."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()

    def end(self, grace_s: float = STOP_GRACE_SECONDS) -> None:
        """Leave no rank behind: ask those that run, and after `grace_s` seconds ask no longer."""
        self.terminate()
        self._wait(grace_s)
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the loaders of one that is gone, too
        self._wait(STOP_GRACE_SECONDS)
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for file in self._files:
            file.close()

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(until - time.monotonic(), 0.0))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them, whatever ended the wait: an interrupt, a broken event, a normal end."""
        self.end(INTERRUPT_GRACE_SECONDS if kind is KeyboardInterrupt else STOP_GRACE_SECONDS)


def log_name(rank: int) -> str:
    """The file with the output of a rank."""
    return "worker.log" if rank == 0 else f"worker-{rank}.log"


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
