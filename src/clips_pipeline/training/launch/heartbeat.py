"""Per-rank heartbeat files: `ranks/RANK.json` in the run folder. Does not import torch.

A collective operation that hangs cannot report which rank it waits for. The heartbeats can: every rank writes its step and its
activity every few seconds, and the launcher reads them, also from another machine. The age of a heartbeat is measured on the
reader's clock from the moment the file changed, so the clocks of two machines need not agree.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from clips_pipeline.io.atomic import write_text

FOLDER = "ranks"
_PREVIOUS = ".previous"
"""Suffix of the last heartbeat of the attempt before."""
MAX_RANKS_SHOWN = 8
"""Ranks that a message lists."""


@dataclass(frozen=True)
class Heartbeat:
    """The last heartbeat of one rank.

    Attributes:
        rank: number of the rank, from 0.
        world_size: number of ranks.
        host: name of its machine.
        pid: its process.
        step: optimizer steps done.
        activity: what the rank is doing, for messages.
        activity_since: wall-clock time of its machine when it began to do that.
        error: why the rank failed, if it did.
        failed_at: wall-clock time of the failure.
        attempt: how often torchrun had restarted the ranks.
        final_exit_code: exit code of all later attempts, which end at once; None where torchrun may restart the ranks.
        ended: whether the rank has ended, with or without an error.
        written_at: modification time of the file.
    """

    rank: int
    world_size: int
    host: str
    pid: int
    step: int = 0
    activity: str = "starting"
    activity_since: float = 0.0
    error: str | None = None
    failed_at: float | None = None
    attempt: int = 0
    final_exit_code: int | None = None
    ended: bool = False
    written_at: float = 0.0

    @property
    def name(self) -> str:
        """Rank, host and process, for messages."""
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"


def interval_s(timeout_s: float) -> float:
    """Return the seconds between two heartbeats: at most a twentieth of `timeout_s`, so that a slow rank is not taken for dead."""
    return min(5.0, max(timeout_s / 20, 0.1))


def silent_after_s(timeout_s: float) -> float:
    """Return the seconds without a heartbeat after which a rank counts as silent, once a training has failed."""
    return max(3 * interval_s(timeout_s), 2.0)


def current_attempt() -> int:
    """Return how often torchrun has restarted the ranks of this process."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


class HeartbeatWriter:
    """Writes the heartbeat of this rank from a thread, so that a stopped or starved process falls silent.

    Args:
        run_folder: run folder of the training.
        rank: rank of this process.
        world_size: number of ranks.
        interval_s: seconds between two heartbeats.
    """

    def __init__(self, run_folder: Path, rank: int, world_size: int, interval_s: float) -> None:
        folder = run_folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._interval_s = folder / f"{rank}.json", interval_s
        if current_attempt() > 0:
            # Another rank, which starts later, may still read how the previous attempt ended.
            with suppress(FileNotFoundError):
                self._path.replace(self._path.with_suffix(_PREVIOUS))
        self._identity = Heartbeat(rank, world_size, socket.gethostname(), os.getpid(), attempt=current_attempt())
        self._activity = (0, "starting", time.time())
        self._failure: tuple[str, float] | None = None
        self.final_exit_code: int | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._write_periodically, daemon=True, name="heartbeat")

    def set_activity(self, step: int, activity: str) -> None:
        """Note what the rank does from now on. Costs nothing: the thread writes the file."""
        self._activity = (step, activity, time.time())

    def report_failure(self, message: str, final_exit_code: int | None = None) -> None:
        """Write at once that this rank has failed.

        Args:
            message: the error.
            final_exit_code: see `Heartbeat`.
        """
        self._failure, self.final_exit_code = (message, time.time()), final_exit_code
        self._write()

    def __enter__(self) -> "HeartbeatWriter":
        """Write the first heartbeat and start the thread."""
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread and write the last heartbeat."""
        self._closed.set()
        self._thread.join()
        self._write(ended=True)

    def _write_periodically(self) -> None:
        while not self._closed.wait(self._interval_s):
            self._write()

    def _write(self, *, ended: bool = False) -> None:
        (step, activity, since), (error, failed_at) = self._activity, self._failure or (None, None)
        values = asdict(self._identity) | {
            "step": step,
            "activity": activity,
            "activity_since": since,
            "error": error,
            "failed_at": failed_at,
            "final_exit_code": self.final_exit_code,
            "ended": ended,
        }
        try:
            write_text(self._path, json.dumps(values))
        except OSError:
            # A full disk does not mean a dead rank. The next important write will report it.
            if self._path.exists():
                os.utime(self._path)


def read_heartbeats(run_folder: Path, before_attempt: int | None = None) -> list[Heartbeat]:
    """Return the last heartbeat of every rank that has written one, by rank.

    Heartbeats of an earlier start with more ranks are left out.

    Args:
        run_folder: run folder of the training.
        before_attempt: return only heartbeats of earlier attempts, also of ranks that have begun this attempt.
    """
    folder = run_folder / FOLDER
    heartbeats: dict[int, Heartbeat] = {}
    for name in {path.stem for suffix in (".json", _PREVIOUS) for path in folder.glob(f"*{suffix}")}:
        heartbeat = _read(folder / f"{name}.json")
        if before_attempt is not None and (heartbeat is None or heartbeat.attempt >= before_attempt):
            heartbeat = _read(folder / f"{name}{_PREVIOUS}")
        if heartbeat is not None:
            heartbeats[heartbeat.rank] = heartbeat
    if 0 in heartbeats:
        world_size = heartbeats[0].world_size
    else:
        world_size = max((heartbeat.world_size for heartbeat in heartbeats.values()), default=0)
    return [heartbeats[rank] for rank in sorted(heartbeats) if rank < world_size]


def _read(path: Path) -> Heartbeat | None:
    try:
        return Heartbeat(**{**json.loads(path.read_text()), "written_at": path.stat().st_mtime})
    except (OSError, ValueError, TypeError):
        return None  # absent, just being replaced, or written by another version


def remove_heartbeats(run_folder: Path) -> None:
    """Remove the heartbeats of an earlier start."""
    for suffix in (".json", _PREVIOUS):
        for path in (run_folder / FOLDER).glob(f"*{suffix}"):
            path.unlink(missing_ok=True)


class HeartbeatMonitor:
    """Measures the age of each rank's heartbeat on the clock of this process; call `poll` often.

    Args:
        run_folder: run folder of the training.
    """

    def __init__(self, run_folder: Path) -> None:
        self._run_folder = run_folder
        self._seen: dict[int, tuple[float, float]] = {}

    def poll(self) -> dict[int, tuple[Heartbeat, float]]:
        """Return by rank its last heartbeat in the latest attempt, and the seconds since it changed."""
        now, heartbeats = time.monotonic(), read_heartbeats(self._run_folder)
        latest = max((heartbeat.attempt for heartbeat in heartbeats), default=0)
        aged = {}
        for heartbeat in heartbeats:
            if heartbeat.attempt < latest:
                continue  # this rank has not begun the latest attempt
            if self._seen.get(heartbeat.rank, (0.0, 0.0))[0] != heartbeat.written_at:
                self._seen[heartbeat.rank] = heartbeat.written_at, now
            aged[heartbeat.rank] = heartbeat, now - self._seen[heartbeat.rank][1]
        return aged


def describe_ranks(heartbeats: Iterable[Heartbeat]) -> str:
    """Return one line per rank with its step and activity; ranks that lag behind come first."""
    ordered = sorted(heartbeats, key=lambda heartbeat: (heartbeat.step, heartbeat.written_at, heartbeat.rank))
    lines = [f"  {one.name}: step {one.step}, {one.activity}" for one in ordered[:MAX_RANKS_SHOWN]]
    if len(ordered) > MAX_RANKS_SHOWN:
        lines.append(f"  and {len(ordered) - MAX_RANKS_SHOWN} more")
    return "\n".join(lines)
