"""Stall monitor of the loader: which shard each loader worker is reading, and for how long.

A stalled loader reports nothing: the worker that hangs in a read cannot, and the others wait. So workers write what
they read to shared memory, and a thread of the training process checks it while a batch is overdue.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from clips_pipeline.data.loading.anonymous_memory import AnonymousMemory

_ROW_BYTES = 16


class ReadClock:
    """Shared memory, one row per loader worker: shard being read and monotonic start time; -1 as shard between reads.

    Args:
        workers: number of loader workers; 0 and 1 give one row.
    """

    def __init__(self, workers: int) -> None:
        self._memory = AnonymousMemory(max(workers, 1) * _ROW_BYTES)
        self._reads()[:] = -1.0

    def begin(self, shard: int) -> None:
        """Record that this worker starts to read from `shard`."""
        self._own_row()[:] = shard, time.monotonic()

    def end(self) -> None:
        """Record that this worker has finished its read."""
        self._own_row()[0] = -1.0

    def pending_reads(self) -> list[tuple[int, int, float]]:
        """Return worker, shard and seconds of every read in progress."""
        now = time.monotonic()
        return [
            (worker, int(shard), now - since)
            for worker, (shard, since) in enumerate(self._reads().tolist())
            if shard >= 0
        ]

    def _own_row(self) -> NDArray[np.float64]:
        worker = get_worker_info()
        mine: NDArray[np.float64] = self._reads()[0 if worker is None else worker.id]
        return mine

    def _reads(self) -> NDArray[np.float64]:
        # float64 holds any shard number exactly. The monotonic clock is the same for all processes of a machine.
        return np.frombuffer(self._memory.buffer, np.float64).reshape(-1, 2)


@dataclass(frozen=True)
class Stall:
    """A wait for a batch that takes too long.

    Attributes:
        rank: the rank that waits.
        seconds: duration of the wait.
        worker: the worker with the longest read; None if no worker is reading, so decoding or the machine is slow.
        shard: number of the shard in the split.
        reading_seconds: duration of that read.
    """

    rank: int
    seconds: float
    worker: int | None = None
    shard: int | None = None
    reading_seconds: float = 0.0


class StallMonitor:
    """Thread that calls `on_stall` if a wait takes longer than `after_s`, and again each time the wait has doubled.

    Args:
        clock: `ReadClock` of the loader's dataset.
        rank: rank of this process.
        after_s: seconds until the first call.
        on_stall: called in the monitor's thread.
    """

    def __init__(self, clock: ReadClock, rank: int, after_s: float, on_stall: Callable[[Stall], None]) -> None:
        self.clock, self.rank, self.after_s, self.on_stall = clock, rank, after_s, on_stall
        # Written for every batch without a lock: assigning a float is atomic, and the thread polls.
        self._since: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="stall-watch")
        self._thread.start()

    def begin(self) -> None:
        """Record that the wait for a batch starts."""
        self._since = time.monotonic()

    def end(self) -> None:
        """Record that the batch has arrived."""
        self._since = None

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        reported_wait, due = None, self.after_s
        while not self._closed.wait(self.after_s / 4):
            since = self._since
            if since is None:
                continue
            if since != reported_wait:
                reported_wait, due = since, self.after_s
            seconds = time.monotonic() - since
            if seconds >= due:
                due = 2 * seconds
                self.on_stall(self._stall(seconds))

    def _stall(self, seconds: float) -> Stall:
        longest = max(self.clock.pending_reads(), key=lambda read: read[2], default=None)
        return Stall(self.rank, seconds) if longest is None else Stall(self.rank, seconds, *longest)
