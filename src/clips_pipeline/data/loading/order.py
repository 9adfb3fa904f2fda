"""Sample order of an epoch.

A pure function of seed, epoch, the shards' sizes, the global batch size and `train.shuffle_window`; independent of the
number of ranks and loader workers.

All shards are shuffled and their samples concatenated (the line). The line is cut into `streams` parts of equal length
(streams), each stream into windows, and the samples within a window are shuffled. A global batch takes the same number
of samples from every stream. Reads therefore stay within one window of each stream, and a rank that owns some streams
reads few shards, while a batch mixes samples from as many places of the line as there are streams, which are in
different shards if streams are longer than shards. OpenVision, the reference implementation, shuffles within 250,000
samples. The shuffles sort by a hash (SplitMix64) instead of a random generator, so that the order does not change with
the NumPy version.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Per loader worker; the usual limit of open files is 1024.
_MAX_OPEN_SHARDS = 512
MAX_STREAMS = 64
WINDOW_SAMPLES = 500_000
"""Samples of the windows of all streams together. `python -m benchmarks.shuffle` measures how well this mixes."""


class EpochOrder:
    """Map from (epoch, stream, position in the stream) to (shard, row), with random access.

    Args:
        samples_per_shard: number of samples of each shard.
        seed: seed of the order.
        window_samples: samples of the windows of all streams together.
        streams: number of streams that the line is cut into.

    Attributes:
        samples_per_shard: number of samples of each shard.
        seed: seed of the order.
        streams: number of streams.
        total: number of samples.
        stream_length: samples of each stream; the last `total % streams` samples of the line are not used in this
            epoch.
        window: samples of a window of one stream, at most `window_samples // streams`.
    """

    def __init__(
        self, samples_per_shard: Sequence[int], seed: int, window_samples: int = WINDOW_SAMPLES, streams: int = 1
    ) -> None:
        self.samples_per_shard = np.asarray(samples_per_shard, np.int64)
        self.total = int(self.samples_per_shard.sum())
        self.seed, self.window_samples, self.streams = seed, window_samples, streams
        self.stream_length = self.total // streams
        # With many small shards, a full window would need too many open files.
        samples_in_max_open_shards = self.total // max(len(self.samples_per_shard), 1) * _MAX_OPEN_SHARDS
        self.window = max(1, min(window_samples, samples_in_max_open_shards) // streams)
        self._first = np.concatenate([[0], np.cumsum(self.samples_per_shard)])
        # Cached: the line of this epoch and the next; per stream, the current window and the next one.
        self._line = lru_cache(2)(self._shards_in_line)
        self._ids = lru_cache(2 * streams)(self._window_ids)

    @property
    def max_open_shards(self) -> int:
        """Estimate of how many shards the current windows of all streams touch, capped at 512.

        `train_loader` derives its limit of open files from it.
        """
        sizes = np.sort(self.samples_per_shard[self.samples_per_shard > 0])
        # A window may begin and end in the middle of a shard.
        per_window = int(np.searchsorted(np.cumsum(sizes), self.window)) + 2
        return min(per_window * self.streams, len(self.samples_per_shard), _MAX_OPEN_SHARDS)

    def locate(self, epoch: int, stream: int, position: int) -> tuple[int, int]:
        """Return where the sample at a position of a stream is stored.

        Args:
            epoch: epoch, from 0.
            stream: stream, 0 to `streams` - 1.
            position: position in the stream, 0 to `stream_length` - 1.

        Returns:
            (shard, row in the shard).
        """
        number, within = divmod(position, self.window)
        sample = self._ids(epoch, stream, number)[within]
        shard = int(np.searchsorted(self._first, sample, side="right")) - 1
        return shard, int(sample - self._first[shard])

    def window_shards(self, epoch: int, stream: int, position: int) -> list[int]:
        """Return the shards of the window around `position`, in line order; empty past the end of the stream."""
        begin = position // self.window * self.window
        if begin >= self.stream_length:
            return []
        shards, ends = self._line(epoch)
        first, last = (
            stream * self.stream_length + begin,
            stream * self.stream_length + min(begin + self.window, self.stream_length) - 1,
        )
        first_shard, last_shard = np.searchsorted(ends, [first, last], side="right")
        return [int(shard) for shard in shards[first_shard : last_shard + 1] if self.samples_per_shard[shard]]

    def __getstate__(self) -> dict[str, object]:
        names = ("samples_per_shard", "seed", "window_samples", "streams")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _shards_in_line(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all shards in the order of the line, and the position in the line where each one ends."""
        order = np.argsort(_hash(self.seed, epoch, "shards", np.arange(len(self.samples_per_shard))), kind="stable")
        return order, np.cumsum(self.samples_per_shard[order])

    def _window_ids(self, epoch: int, stream: int, number: int) -> NDArray[np.int64]:
        """Return the samples of a window in their order, as numbers over all shards in the order of the index."""
        shards, ends = self._line(epoch)
        begin = number * self.window
        line = stream * self.stream_length + np.arange(begin, min(begin + self.window, self.stream_length))
        shard_in_line = np.searchsorted(ends, line, side="right")
        shard = shards[shard_in_line]
        ids: NDArray[np.int64] = self._first[shard] + line - (ends[shard_in_line] - self.samples_per_shard[shard])
        return ids[np.argsort(_hash(self.seed, epoch, "samples", ids), kind="stable")]


def choose_streams(samples: int, global_batch_size: int, window_samples: int, max_streams: int = MAX_STREAMS) -> int:
    """Return 1 if a window holds all samples, else the largest divisor of the global batch size up to `max_streams`.

    The result does not depend on ranks or loader workers, so neither does the order.

    Args:
        samples: number of samples of the split.
        global_batch_size: samples of a step over all ranks.
        window_samples: samples of the windows of all streams together.
        max_streams: upper bound on the result.
    """
    if samples <= window_samples:
        return 1
    return max(count for count in range(1, max_streams + 1) if global_batch_size % count == 0)


def _hash(seed: int, epoch: int, purpose: str, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each number (finalizer of SplitMix64; the start depends on seed, epoch and purpose)."""
    start = hashlib.blake2b(f"{seed}/{epoch}/{purpose}".encode(), digest_size=8).digest()
    z = np.uint64(int.from_bytes(start, "big")) + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
