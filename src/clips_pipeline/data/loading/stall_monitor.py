"""Who waits for what: which shard each worker is reading, and since when, seen from the process that trains.

A loader that stands still says nothing by itself: the worker that hangs in a read cannot, and the others only wait. So the
workers note what they read in memory that the training process shares, and a thread there looks at it while a batch is
overdue.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info


class ReadClock:
    """Per worker, the shard being read and the monotonic time at which that began; -1 and 0 between reads.

    Args:
        workers: processes that read; with 0 or 1 there is one line.
    """

    def __init__(self, workers: int) -> None:
        # Doubles hold any shard number exactly. The clock is the system's, the same for all processes of a machine.
        reads = torch.full((max(workers, 1), 2), -1.0, dtype=torch.float64)
        self._reads: Tensor = reads.share_memory_()  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Tensor]:
        return {"_reads": self._reads}

    def begin(self, shard: int) -> None:
        """This worker begins to read from `shard`."""
        self._own_row()[:] = shard, time.monotonic()

    def end(self) -> None:
        """This worker has read."""
        self._own_row()[0] = -1.0

    def pending_reads(self) -> list[tuple[int, int, float]]:
        """Worker, shard and seconds for every read that goes on."""
        now = time.monotonic()
        return [
            (worker, int(shard), now - since)
            for worker, (shard, since) in enumerate(self._reads.tolist())
            if shard >= 0
        ]

    def _own_row(self) -> NDArray[np.float64]:
        worker = get_worker_info()
        mine: NDArray[np.float64] = self._reads.numpy()[0 if worker is None else worker.id]
        return mine


@dataclass(frozen=True)
class Stall:
    """A wait that is too long.

    Attributes:
        rank: that waits.
        seconds: since when.
        worker: that reads; None when none is reading, so that decoding or the machine is what is slow.
        shard: number in the split.
        reading_seconds: since when the worker reads.
    """

    rank: int
    seconds: float
    worker: int | None = None
    shard: int | None = None
    reading_seconds: float = 0.0


class StallMonitor:
    """Calls `on_stall` when a wait takes longer than `after_s`, and again each time the wait has doubled.

    Args:
        clock: of the loader's dataset.
        rank: of this process.
        after_s: seconds.
        on_stall: called in a thread of its own.
    """

    def __init__(self, clock: ReadClock, rank: int, after_s: float, on_stall: Callable[[Stall], None]) -> None:
        self.clock, self.rank, self.after_s, self.on_stall = clock, rank, after_s, on_stall
        # Written for every batch, so without a lock: the thread looks now and then, and a float is whole at any time.
        self._since: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="stall-watch")
        self._thread.start()

    def begin(self) -> None:
        """A batch is waited for."""
        self._since = time.monotonic()

    def end(self) -> None:
        """It is there."""
        self._since = None

    def close(self) -> None:
        """End the thread."""
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
