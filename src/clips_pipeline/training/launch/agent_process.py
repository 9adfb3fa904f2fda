"""Torchrun's agent as a child process of the launcher: start, terminate, kill. Does not import torch."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import psutil

from clips_pipeline.training.launch.heartbeat import Heartbeat
from clips_pipeline.training.launch.interrupt import PARENT
from clips_pipeline.training.launch.result import EXIT_CODES, LOGS

AGENT_MODULE = "clips_pipeline.training.launch.agent"
GRACE_SECONDS = 40.0
"""Time for the agent to end the ranks: torchelastic gives them 30 s after SIGTERM."""


class AgentProcess:
    """Context that starts the agent of a run spec; leaving it ends the agent and the ranks.

    Args:
        spec: file of the run spec in its run folder.
        environment: environment variables of the agent and the ranks.
    """

    def __init__(self, spec: Path, environment: dict[str, str]) -> None:
        self.logs = spec.parent / LOGS
        self._spec, self._codes = spec, spec.parent / EXIT_CODES
        self._environment = environment | {PARENT: "1", "NODE_RANK": "0"}

    def __enter__(self) -> "AgentProcess":
        """Start the agent in its own session, so that Ctrl-C in the terminal reaches the launcher only."""
        self._codes.unlink(missing_ok=True)
        self.logs.mkdir(exist_ok=True)
        with (self.logs / "agent.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module, no shell
                [sys.executable, "-m", AGENT_MODULE, str(self._spec)],
                # The ranks inherit this pipe. It closes when the launcher ends in any way, and they notice.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        return self

    def is_running(self) -> bool:
        """Return whether the agent runs."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the agent, negative for a signal; None while it runs."""
        return self._process.poll()

    def failed_ranks(self) -> dict[int, tuple[int, int]]:
        """Return by rank the process and exit code (negative for a signal) of those that failed in the last attempt."""
        if not self._codes.exists():
            return {}
        return {int(rank): (one["pid"], one["code"]) for rank, one in json.loads(self._codes.read_text()).items()}

    def stderr_logs(self, ranks: int) -> dict[int, Path]:
        """Return by rank the file with its errors of the last attempt."""
        attempts = [path for path in self.logs.glob("*/attempt_*") if path.is_dir()]
        if not attempts:
            return dict.fromkeys(range(ranks), self.logs / "agent.log")
        last = max(attempts, key=lambda path: (path.stat().st_mtime, path.name))
        return {rank: last / str(rank) / "stderr.log" for rank in range(ranks)}

    def terminate(self) -> None:
        """Send SIGTERM to the agent, which sends it to the ranks: they save a checkpoint and end."""
        self._process.terminate()

    def close(self) -> None:
        """Terminate the agent and its ranks; kill what still runs after `GRACE_SECONDS`."""
        if self.is_running():
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                process.kill()
        self._process.kill()
        self._process.wait()
        # Ranks whose agent was killed notice that this pipe closes, save a checkpoint and end.
        if self._process.stdin is not None:
            self._process.stdin.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, also after an exception (an invalid event, a second Ctrl-C)."""
        self.close()


def kill_rank(rank: Heartbeat) -> bool:
    """Kill a rank of this machine that hangs, with its loader workers, so that the agent sees it fail.

    Returns:
        False if the rank has already ended.
    """
    try:
        os.killpg(rank.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def temporary_folder(run_folder: Path) -> Iterator[dict[str, str]]:
    """Give the ranks a folder of their own for temporary files, one per run folder.

    The next start removes what a killed rank left there. Yields the environment variables for the ranks.
    """
    default = Path(tempfile.gettempdir())
    folder = default / f"clips-{hashlib.sha256(str(run_folder.resolve()).encode()).hexdigest()[:16]}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except OSError:  # another user's folder, or a full disk: the ranks report what they cannot write
        yield {}
        return
    # The cache of torch.compile is kept for the next start.
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(default / f"torchinductor_{os.getuid()}"))
    try:
        yield {"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": cache}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
