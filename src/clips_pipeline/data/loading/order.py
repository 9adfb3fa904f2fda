"""The order of samples in an epoch: a pure function of (seed, epoch), whatever reads them.

Shards are put into a random order; all their samples, one after the other, make a line. The line is cut into streams of
equal length, each stream into windows, and the samples of a window are put into a random order. A global batch takes an
equal part of every stream. So reads stay within one window of each stream, and a rank that owns some streams reads few
shards, while a batch mixes samples of at least as many shards as there are streams (OpenVision, the running reference,
shuffles within 250,000 samples). Places come from a hash, not from a generator: no library
version changes them.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# More open files than this per worker would meet the usual limit of 1024.
_MAX_OPEN_SHARDS = 512
MAX_STREAMS = 64
WINDOW_SAMPLES = 500_000
"""Samples of all windows together. `python -m benchmarks.shuffle` says how well that mixes."""


class EpochOrder:
    """Stream and place in it → (shard, row), for any epoch, without counting up to it.

    Args:
        samples: number of samples of each shard.
        seed: another seed gives another order.
        window_samples: that the windows of all streams hold together.
        streams: parts of the line.

    Attributes:
        total: number of samples.
        length: of each stream; what is left over at the end of the line waits for another epoch.
    """

    def __init__(
        self, samples: Sequence[int], seed: int, window_samples: int = WINDOW_SAMPLES, streams: int = 1
    ) -> None:
        self.samples = np.asarray(samples, np.int64)
        self.total = int(self.samples.sum())
        self.seed, self.window_samples, self.streams = seed, window_samples, streams
        self.length = self.total // streams
        # Many small shards: a window of them all would be more files than can be open.
        many = self.total // max(len(self.samples), 1) * _MAX_OPEN_SHARDS
        self.window = max(1, min(window_samples, many) // streams)
        self._first = np.concatenate([[0], np.cumsum(self.samples)])
        # The last two: of the present window and the next one for every stream, of this epoch and the next.
        self._line = lru_cache(2)(self._shards_in_line)
        self._ids = lru_cache(2 * streams)(self._window_ids)

    @property
    def max_open_shards(self) -> int:
        """An upper bound, but for very uneven shards, of the files that the windows touch at a time."""
        sizes = np.sort(self.samples[self.samples > 0])
        # A window that begins within one shard ends within another.
        per_window = int(np.searchsorted(np.cumsum(sizes), self.window)) + 2
        return min(per_window * self.streams, len(self.samples), _MAX_OPEN_SHARDS)

    def locate(self, epoch: int, stream: int, place: int) -> tuple[int, int]:
        """Shard and row of the sample at `place` (0 to `length`, excluded) of a stream."""
        number, within = divmod(place, self.window)
        sample = self._ids(epoch, stream, number)[within]
        shard = int(np.searchsorted(self._first, sample, side="right")) - 1
        return shard, int(sample - self._first[shard])

    def window_shards(self, epoch: int, stream: int, place: int) -> list[int]:
        """The shards that the window with this place reads, in the order of the line; none beyond the stream's end."""
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
        """All shards in the order of the line, and the place in the line where each one ends."""
        order = np.argsort(_hash(self.seed, epoch, "shards", np.arange(len(self.samples))), kind="stable")
        return order, np.cumsum(self.samples[order])

    def _window_ids(self, epoch: int, stream: int, number: int) -> NDArray[np.int64]:
        """The samples of a window in their order, counted through all shards as the index has them."""
        shards, ends = self._line(epoch)
        begin = number * self.window
        line = stream * self.length + np.arange(begin, min(begin + self.window, self.length))
        at = np.searchsorted(ends, line, side="right")
        ids: NDArray[np.int64] = self._first[shards[at]] + line - (ends[at] - self.samples[shards[at]])
        return ids[np.argsort(_hash(self.seed, epoch, "samples", ids), kind="stable")]


def choose_streams(samples: int, global_batch_size: int, window_samples: int, max_streams: int = MAX_STREAMS) -> int:
    """How many streams: one where a window holds all samples, else the largest divisor of the global batch up to `most`.

    Ranks and workers play no part, so that the order is the same for any number of them.
    """
    if samples <= window_samples:
        return 1
    return max(count for count in range(1, max_streams + 1) if global_batch_size % count == 0)


def _hash(seed: int, epoch: int, use: str, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A 64-bit hash of each number (the finaliser of SplitMix64 over a start drawn from seed, epoch and use)."""
    start = hashlib.blake2b(f"{seed}/{epoch}/{use}".encode(), digest_size=8).digest()
    z = np.uint64(int.from_bytes(start, "big")) + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
