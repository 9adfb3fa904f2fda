"""Bounds on the time of a sample and of a shard, and a note of where a job is, which outlives its process.

A decoder may hang or be killed in C code, where no exception and no thread of Python can end it. So each position of a
job is noted in a file, and an alarm of the kernel ends the process. The job starts again in another process, finds the
note, and goes on without the sample. `concurrent.futures` and its relatives bound whole jobs only.
"""

import faulthandler
import json
import mmap
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from annotated_types import Gt, Le

from clips_pipeline.data.shards import records
from clips_pipeline.io.atomic import write_bytes

# A process that was killed at a position once may be innocent: the memory may have been used by others.
_DEATHS = 2
_LINE = 64
_SAMPLE, _SHARD = "sample", "shard"

OPENING: Final = "opening the shard"
ENDING: Final = "writing its result"

Seconds = Annotated[float, Gt(0), Le(7 * 86400)]


@dataclass(frozen=True)
class WatchdogConfig:
    """Bounds on the time of jobs. The embedded data is not watched, because it is made here.

    Attributes:
        sample_seconds: seconds to read and check one sample; then it is skipped as `too_slow`.
        shard_seconds: seconds for one shard, with all starts of its job; then it is set aside as `shard_too_slow`.
    """

    sample_seconds: Seconds = 60.0
    shard_seconds: Seconds = 3600.0


@dataclass(frozen=True)
class Watchdog:
    """The watchdog of one run of `prepare`. Can be pickled.

    Attributes:
        config: bounds.
        run: text that differs for every run: a note of an earlier run, which the user may have stopped, does not count.
        caller: machine and process that runs `prepare`, which no alarm may end (a Dask cluster of threads).
    """

    config: WatchdogConfig
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    caller: tuple[str, int] = field(default_factory=lambda: _this_process())

    @contextmanager
    def watch(self, file: Path) -> Iterator["Watch"]:
        """Yield the watch over one attempt at a job, whose notes are in `file`; afterwards the file is gone."""
        watch = _NotedWatch(file, self)
        try:
            yield watch
        finally:
            watch.close()


def _this_process() -> tuple[str, int]:
    return os.uname().nodename, os.getpid()


class Watch:
    """A watch that never finds anything, for jobs without a watchdog."""

    set_aside: str | None = None
    """Reason why the shard cannot be used, from an earlier attempt at the same job."""

    def fault(self, position: str) -> str | None:
        """Return the reason why an earlier attempt could not pass a position, or None."""
        return None

    def begin(self, position: str) -> None:
        """Note that work on a sample begins."""

    def move(self, position: str) -> None:
        """Note another position of the same sample; its time goes on."""

    def end(self) -> None:
        """Note that work on a sample ended; the bound on the shard still holds."""

    def reach(self, position: str) -> None:
        """Note a position that only the bound on the shard holds for."""


@dataclass
class _Note:
    """What attempts at one job found out.

    Attributes:
        run: `Watchdog.run`.
        began: time of the first attempt, in seconds since the epoch.
        attempt: number of this attempt, from 1.
        deaths: number of processes that were killed at a position.
        slow: positions that took too long.
        set_aside: see `Watch`.
    """

    run: str
    began: float = field(default_factory=time.time)
    attempt: int = 1
    deaths: dict[str, int] = field(default_factory=dict)
    slow: list[str] = field(default_factory=list)
    set_aside: str | None = None


class _NotedWatch(Watch):
    # The timer belongs to the process. Where several threads run jobs (Dask), those without it can still be killed.
    _timer = threading.Lock()

    def __init__(self, file: Path, watchdog: Watchdog) -> None:
        self._path, self._config = file, watchdog.config
        self._note = _read_note(file, watchdog.run) or _Note(watchdog.run)
        self.set_aside = self._note.set_aside
        spent = max(time.time() - self._note.began, 0.0)
        self._ends = time.monotonic() + watchdog.config.shard_seconds - spent
        text = json.dumps(vars(self._note))
        write_bytes(file, f"{' ' * (_LINE - 1)}\n{text}\n".encode())
        self._file = file.open("rb+")
        self._file.seek(0, os.SEEK_END)
        # Memory of the kernel, which stays when the process is killed.
        self._line = mmap.mmap(self._file.fileno(), _LINE)
        # A shard that is set aside has no time left, and is not read either.
        may_alarm = self.set_aside is None and watchdog.caller != _this_process()
        self._alarmed = may_alarm and self._timer.acquire(blocking=False)
        if self._alarmed:
            # In C, so also while a decoder holds the interpreter's lock: first the traceback, then the default action.
            faulthandler.register(signal.SIGALRM, self._file, all_threads=True, chain=True)
        self.reach(OPENING)

    def fault(self, position: str) -> str | None:
        """See `Watch`."""
        if position in self._note.slow:
            return records.TOO_SLOW
        return records.KILLED if self._note.deaths.get(position, 0) >= _DEATHS else None

    def begin(self, position: str) -> None:
        """See `Watch`."""
        left = self._left()
        bound, seconds = (
            (_SHARD, left) if left < self._config.sample_seconds else (_SAMPLE, self._config.sample_seconds)
        )
        self._set(bound, position, seconds)

    def move(self, position: str) -> None:
        """See `Watch`."""
        self._line[len(_SAMPLE) : -1] = f" {position}".ljust(_LINE - 1 - len(_SAMPLE)).encode()

    def end(self) -> None:
        """See `Watch`."""
        # The position stays, since the sample is written next.
        if self._alarmed:
            self._line[: len(_SAMPLE)] = _SHARD.ljust(len(_SAMPLE)).encode()
            signal.setitimer(signal.ITIMER_REAL, self._left())

    def reach(self, position: str) -> None:
        """See `Watch`."""
        self._set(_SHARD, position, self._left())

    def _set(self, bound: str, position: str, seconds: float) -> None:
        self._line[:-1] = f"{bound:{len(_SAMPLE)}} {position}".ljust(_LINE - 1).encode()
        if self._alarmed:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def _left(self) -> float:
        # 0 would turn the timer off.
        return max(self._ends - time.monotonic(), 0.001)

    def close(self) -> None:
        """Turn the alarm off and delete the notes."""
        if self._alarmed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.unregister(signal.SIGALRM)
            self._timer.release()
        self._line.close()
        self._file.close()
        self._path.unlink(missing_ok=True)


def read_position(file: Path) -> str:
    """Return where an attempt at a job is, and its number; empty if there is no note."""
    try:
        line, text = file.read_text(errors="replace").split("\n", 2)[:2]
        found = json.loads(text)
        # A process that is killed even while it reads nothing must not be started for ever.
        return "set aside" if found["set_aside"] else f"{line[len(_SAMPLE) :].strip()}, start {found['attempt']}"
    except (FileNotFoundError, ValueError):
        return ""


def _read_note(file: Path, run: str) -> _Note | None:
    """Return the notes of an attempt of the same run whose process was killed, with what its end shows."""
    try:
        line, text, traceback = file.read_text(errors="replace").split("\n", 2)
        found: dict[str, Any] = json.loads(text)
    except (FileNotFoundError, ValueError):
        return None
    if found["run"] != run:
        return None
    note = _Note(**found)
    note.attempt += 1
    bound, position = line[: len(_SAMPLE)].strip(), line[len(_SAMPLE) :].strip()
    if traceback and bound == _SAMPLE:
        note.slow.append(position)
    elif traceback:
        note.set_aside = records.SHARD_TOO_SLOW
    else:
        note.deaths[position] = note.deaths.get(position, 0) + 1
        if note.deaths[position] >= _DEATHS and position in (OPENING, ENDING):
            note.set_aside = records.SHARD_KILLED
    return note
