"""Sample order of an epoch: a pure function of (seed, epoch), independent of ranks and workers.

Shards are shuffled, and all their samples, one after the other, form a line. The line is cut into streams of equal
length, each stream into windows, and the samples of a window are shuffled. A global batch takes an equal part of every
stream. Reads therefore stay within one window of each stream, and a rank that owns some streams reads few shards, while
a batch mixes samples of at least as many shards as there are streams. (OpenVision, the reference implementation,
shuffles within 250,000 samples.) Positions come from a hash, not from a random generator, so no library version changes
them.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Per worker; the usual limit of open files is 1024.
_MAX_OPEN_SHARDS = 512
MAX_STREAMS = 64
WINDOW_SAMPLES = 500_000
"""Samples of the windows of all streams together. `python -m benchmarks.shuffle` measures how well this mixes."""


class EpochOrder:
    """Map from (epoch, stream, position in the stream) to (shard, row), with random access.

    Args:
        samples: number of samples of each shard.
        seed: seed of the order.
        window_samples: samples of the windows of all streams together.
        streams: number of streams that the line is cut into.

    Attributes:
        total: number of samples.
        length: samples of each stream; the remainder at the end of the line is left to other epochs.
    """

    def __init__(
        self, samples: Sequence[int], seed: int, window_samples: int = WINDOW_SAMPLES, streams: int = 1
    ) -> None:
        self.samples = np.asarray(samples, np.int64)
        self.total = int(self.samples.sum())
        self.seed, self.window_samples, self.streams = seed, window_samples, streams
        self.length = self.total // streams
        # With many small shards, a full window would need too many open files.
        many = self.total // max(len(self.samples), 1) * _MAX_OPEN_SHARDS
        self.window = max(1, min(window_samples, many) // streams)
        self._first = np.concatenate([[0], np.cumsum(self.samples)])
        # Cached: the line of this epoch and the next; per stream, the current window and the next one.
        self._line = lru_cache(2)(self._shards_in_line)
        self._ids = lru_cache(2 * streams)(self._window_ids)

    @property
    def max_open_shards(self) -> int:
        """Upper bound on the shards that the current windows touch; may be exceeded for very uneven shards."""
        sizes = np.sort(self.samples[self.samples > 0])
        # A window may begin and end in the middle of a shard.
        per_window = int(np.searchsorted(np.cumsum(sizes), self.window)) + 2
        return min(per_window * self.streams, len(self.samples), _MAX_OPEN_SHARDS)

    def locate(self, epoch: int, stream: int, place: int) -> tuple[int, int]:
        """Return shard and row of the sample at position `place` (0 to `length`, excluded) of a stream."""
        number, within = divmod(place, self.window)
        sample = self._ids(epoch, stream, number)[within]
        shard = int(np.searchsorted(self._first, sample, side="right")) - 1
        return shard, int(sample - self._first[shard])

    def window_shards(self, epoch: int, stream: int, place: int) -> list[int]:
        """Return the shards of the window around `place`, in line order; empty past the end of the stream."""
        begin = place // self.window * self.window
        if begin >= self.length:
            return []
        shards, ends = self._line(epoch)
        first, last = stream * self.length + begin, stream * self.length + min(begin + self.window, self.length) - 1
        a, b = np.searchsorted(ends, [first, last], side="right")
        return [int(shard) for shard in shards[a : b + 1] if self.samples[shard]]

    def __getstate__(self) -> dict[str, object]:
        names = ("samples", "seed", "window_samples", "streams")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _shards_in_line(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all shards in the order of the line, and the position in the line where each one ends."""
        order = np.argsort(_hash(self.seed, epoch, "shards", np.arange(len(self.samples))), kind="stable")
        return order, np.cumsum(self.samples[order])

    def _window_ids(self, epoch: int, stream: int, number: int) -> NDArray[np.int64]:
        """Return the samples of a window in their order, as numbers over all shards in the order of the index."""
        shards, ends = self._line(epoch)
        begin = number * self.window
        line = stream * self.length + np.arange(begin, min(begin + self.window, self.length))
        at = np.searchsorted(ends, line, side="right")
        ids: NDArray[np.int64] = self._first[shards[at]] + line - (ends[at] - self.samples[shards[at]])
        return ids[np.argsort(_hash(self.seed, epoch, "samples", ids), kind="stable")]


def choose_streams(samples: int, global_batch_size: int, window_samples: int, max_streams: int = MAX_STREAMS) -> int:
    """Return 1 if a window holds all samples, else the largest divisor of the global batch size up to `max_streams`.

    The result does not depend on ranks or workers, so neither does the order.
    """
    if samples <= window_samples:
        return 1
    return max(count for count in range(1, max_streams + 1) if global_batch_size % count == 0)


def _hash(seed: int, epoch: int, use: str, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each number (the finalizer of SplitMix64; its start depends on seed, epoch and use)."""
    start = hashlib.blake2b(f"{seed}/{epoch}/{use}".encode(), digest_size=8).digest()
    z = np.uint64(int.from_bytes(start, "big")) + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
