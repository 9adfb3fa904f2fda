"""Signs of life: one small file per rank in the run folder, which says who it is and what it is doing, again and again.

A collective operation that hangs cannot say for whom it waits. These files can: whoever follows the run reads them, also
from another machine. Ages are differences of the files' own times, so that no two clocks need to agree. Loads no torch.
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
_BEFORE = ".before"
SHOWN = 8
"""Ranks that a message lists."""


@dataclass(frozen=True)
class Heartbeat:
    """What one rank said last.

    Attributes:
        rank: from 0; `ranks`: how many there are.
        host, pid: where it runs.
        step: optimiser steps done.
        doing: what it is at, in words.
        since: wall-clock time of its machine when it began that.
        error: why it failed, if it did, and when (`failed_at`).
        attempt: how often torchrun had started the ranks again.
        final: exit code of later attempts, which end at once; None where torchrun may start the ranks again.
        over: it has ended, one way or the other.
        told: time of the file.
    """

    rank: int
    ranks: int
    host: str
    pid: int
    step: int = 0
    doing: str = "starting"
    since: float = 0.0
    error: str | None = None
    failed_at: float | None = None
    attempt: int = 0
    final: int | None = None
    over: bool = False
    told: float = 0.0

    @property
    def name(self) -> str:
        """Rank, host and process, for messages."""
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"


def interval_s(timeout_s: float) -> float:
    """Seconds between two signs, so that silence is told from slowness long before `timeout_s`."""
    return min(5.0, max(timeout_s / 20, 0.1))


def silent_after_s(timeout_s: float) -> float:
    """Seconds after which a rank counts as silent when a training has failed and the cause is looked for."""
    return max(3 * interval_s(timeout_s), 2.0)


def attempt() -> int:
    """How often torchrun has started this process's ranks again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


class HeartbeatWriter:
    """Tells what this rank is doing, in a thread of its own: a stopped or starved process falls silent.

    Args:
        run_folder: of the run.
        rank: of this process; `ranks`: how many there are.
        every_s: seconds between two signs.
    """

    def __init__(self, run_folder: Path, rank: int, ranks: int, every_s: float) -> None:
        folder = run_folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._every_s = folder / f"{rank}.json", every_s
        if attempt() > 0:
            # Another rank, which begins later, may still ask how the attempt before ended.
            with suppress(FileNotFoundError):
                self._path.replace(self._path.with_suffix(_BEFORE))
        self._who = Heartbeat(rank, ranks, socket.gethostname(), os.getpid(), attempt=attempt())
        self._now = (0, "starting", time.time())
        self._failed: tuple[str, float] | None = None
        self.final: int | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tell_on, daemon=True, name="life-sign")

    def at(self, step: int, doing: str) -> None:
        """Note what begins now; costs nothing, the thread writes it."""
        self._now = (step, doing, time.time())

    def failed(self, message: str, final: int | None = None) -> None:
        """Tell at once that this rank has failed, and whether for good."""
        self._failed, self.final = (message, time.time()), final
        self._tell()

    def __enter__(self) -> "HeartbeatWriter":
        """The first sign."""
        self._tell()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The last one."""
        self._closed.set()
        self._thread.join()
        self._tell(over=True)

    def _tell_on(self) -> None:
        while not self._closed.wait(self._every_s):
            self._tell()

    def _tell(self, *, over: bool = False) -> None:
        (step, doing, since), (error, failed_at) = self._now, self._failed or (None, None)
        sign = {**asdict(self._who), "step": step, "doing": doing, "since": since, "final": self.final, "over": over}
        try:
            write_text(self._path, json.dumps({**sign, "error": error, "failed_at": failed_at}))
        except OSError:
            # A full disk is no sign of death; whoever writes something that matters will tell of it.
            if self._path.exists():
                os.utime(self._path)


def read_heartbeats(run_folder: Path, before: int | None = None) -> list[Heartbeat]:
    """The last sign of every rank that has given one, by rank; those of an earlier, wider start are left out.

    Args:
        run_folder: of the run.
        before: only signs of earlier attempts than this one, also of ranks that have begun it already.
    """
    folder = run_folder / FOLDER
    found: dict[int, Heartbeat] = {}
    for name in {path.stem for suffix in (".json", _BEFORE) for path in folder.glob(f"*{suffix}")}:
        sign = _read(folder / f"{name}.json")
        if before is not None and (sign is None or sign.attempt >= before):
            sign = _read(folder / f"{name}{_BEFORE}")
        if sign is not None:
            found[sign.rank] = sign
    ranks = found[0].ranks if 0 in found else max((sign.ranks for sign in found.values()), default=0)
    return [found[rank] for rank in sorted(found) if rank < ranks]


def _read(path: Path) -> Heartbeat | None:
    try:
        return Heartbeat(**{**json.loads(path.read_text()), "told": path.stat().st_mtime})
    except (OSError, ValueError, TypeError):
        return None  # not there, just being replaced, or by another version


def forget(run_folder: Path) -> None:
    """Remove the signs of an earlier start."""
    for suffix in (".json", _BEFORE):
        for path in (run_folder / FOLDER).glob(f"*{suffix}"):
            path.unlink(missing_ok=True)


class HeartbeatMonitor:
    """How long each rank has said nothing, by the clock of whoever looks; call `look` often.

    Args:
        run_folder: of the run.
    """

    def __init__(self, run_folder: Path) -> None:
        self._run_folder = run_folder
        self._heard: dict[int, tuple[float, float]] = {}

    def look(self) -> dict[int, tuple[Heartbeat, float]]:
        """By rank, its last sign in the latest attempt and the seconds since it came."""
        now, signs = time.monotonic(), read_heartbeats(self._run_folder)
        latest = max((sign.attempt for sign in signs), default=0)
        found = {}
        for sign in signs:
            if sign.attempt < latest:
                continue  # it has not begun yet
            if self._heard.get(sign.rank, (0.0, 0.0))[0] != sign.told:
                self._heard[sign.rank] = sign.told, now
            found[sign.rank] = sign, now - self._heard[sign.rank][1]
        return found


def describe_ranks(signs: Iterable[Heartbeat]) -> str:
    """A line for each rank, those who lag behind first."""
    ordered = sorted(signs, key=lambda sign: (sign.step, sign.told, sign.rank))
    lines = [f"  {sign.name}: step {sign.step}, {sign.doing}" for sign in ordered[:SHOWN]]
    return "\n".join([*lines, *([f"  and {len(ordered) - SHOWN} more"] if len(ordered) > SHOWN else [])])
