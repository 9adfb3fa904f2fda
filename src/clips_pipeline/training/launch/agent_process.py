"""The torchrun agent as a child process of the follower: started, asked to end, and ended. Loads no torch."""

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

from clips_pipeline.training.launch.exit_status import EXIT_CODES, LOGS
from clips_pipeline.training.launch.heartbeat import Heartbeat
from clips_pipeline.training.launch.interrupt import PARENT

AGENT = "clips_pipeline.training.launch.agent"
GRACE_SECONDS = 40.0
"""For the agent to end the ranks: torchelastic gives them 30 s after SIGTERM."""


class AgentProcess:
    """Starts the agent of a run spec; leaving the context ends it, and the ranks.

    Args:
        spec: the run spec as a file in its run folder.
        environment: of the agent and the ranks.
    """

    def __init__(self, spec: Path, environment: dict[str, str]) -> None:
        self.logs = spec.parent / LOGS
        self._spec, self._codes = spec, spec.parent / EXIT_CODES
        self._environment = environment | {PARENT: "1", "NODE_RANK": "0"}

    def __enter__(self) -> "AgentProcess":
        """Start it in a session of its own, so that Ctrl-C in the terminal reaches this process alone."""
        self._codes.unlink(missing_ok=True)
        self.logs.mkdir(exist_ok=True)
        with (self.logs / "agent.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module, no shell
                [sys.executable, "-m", AGENT, str(self._spec)],
                # Ranks inherit it; it ends with this process, however that ends, and they see that.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        return self

    def running(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of the agent itself, negative for a signal."""
        return self._process.poll()

    def failed(self) -> dict[int, tuple[int, int]]:
        """By rank, process and exit code (negative for a signal) of those that failed in the last attempt."""
        if not self._codes.exists():
            return {}
        return {int(rank): (one["pid"], one["code"]) for rank, one in json.loads(self._codes.read_text()).items()}

    def log_of(self, ranks: int) -> dict[int, Path]:
        """By rank, where its errors of the last attempt stand."""
        attempts = [path for path in self.logs.glob("*/attempt_*") if path.is_dir()]
        if not attempts:
            return dict.fromkeys(range(ranks), self.logs / "agent.log")
        last = max(attempts, key=lambda path: (path.stat().st_mtime, path.name))
        return {rank: last / str(rank) / "stderr.log" for rank in range(ranks)}

    def terminate(self) -> None:
        """Ask it, and through it the ranks, to save a checkpoint and end."""
        self._process.terminate()

    def close(self) -> None:
        """Leave nothing behind: ask what still runs, and after a while ask no longer."""
        if self.running():
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                process.kill()
        self._process.kill()
        self._process.wait()
        # Ranks whose agent was killed see this, save a checkpoint and end.
        if self._process.stdin is not None:
            self._process.stdin.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, whatever ended the wait: a broken event, an impatient Ctrl-C, a normal end."""
        self.close()


def kill_rank(rank: Heartbeat) -> bool:
    """End a rank of this machine that hangs, with its loaders, so that the agent sees it fail; False if it is gone already."""
    try:
        os.killpg(rank.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def temporary_folder(run_folder: Path) -> Iterator[dict[str, str]]:
    """Variables that give the ranks a folder for temporary files of their own, by the run: what a killed one leaves there the
    next start removes."""
    usual = Path(tempfile.gettempdir())
    folder = usual / f"clips-{hashlib.sha256(str(run_folder.resolve()).encode()).hexdigest()[:16]}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except OSError:  # somebody else's, or no room: the ranks will say what they cannot write
        yield {}
        return
    # What torch.compile has made is for the next start, too.
    kept = os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(usual / f"torchinductor_{os.getuid()}"))
    try:
        yield {"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": kept}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
