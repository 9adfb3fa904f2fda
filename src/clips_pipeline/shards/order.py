"""The order of samples in an epoch: a pure function of (seed, epoch), whatever reads them.

Shards are put into a random order and cut into blocks; the samples of a block are put into a random order. So reads
stay within a few files at a time, while a sample may meet any of some hundred thousand others (OpenVision, the running
reference, shuffles within 250,000). Places come from a hash, not from a generator: no library version changes them.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# More open files than this per worker would meet the usual limit of 1024.
_MOST_SHARDS = 512


class EpochOrder:
    """Position in the epoch → (shard, row), for any epoch, without counting up to it.

    Args:
        samples: number of samples of each shard.
        seed: another seed gives another order.
        block_samples: a block takes shards until it has so many samples.
    """

    def __init__(self, samples: Sequence[int], seed: int, block_samples: int = 250_000) -> None:
        self.samples = np.asarray(samples, np.int64)
        self.total = int(self.samples.sum())
        self.seed = seed
        self.block_samples = block_samples
        self._first = np.concatenate([[0], np.cumsum(self.samples)])
        # Two: a batch may lie across the border of two blocks.
        self._epoch = lru_cache(2)(self._blocks)
        self._block = lru_cache(2)(self._ids)

    @property
    def widest_block(self) -> int:
        """An upper bound of the number of shards in a block, for the number of files to keep open."""
        sizes = np.sort(self.samples)
        shards = int(np.searchsorted(np.cumsum(sizes), self.block_samples)) + 1
        return min(shards, len(self.samples), _MOST_SHARDS)

    def at(self, epoch: int, position: int) -> tuple[int, int]:
        """Shard and row of the sample at `position` (0 to `total`, excluded) of `epoch`."""
        _, starts = self._epoch(epoch)
        number = int(np.searchsorted(starts, position, side="right")) - 1
        sample = self._block(epoch, number)[position - starts[number]]
        shard = int(np.searchsorted(self._first, sample, side="right")) - 1
        return shard, int(sample - self._first[shard])

    def __getstate__(self) -> dict[str, object]:
        return {"samples": self.samples, "seed": self.seed, "block_samples": self.block_samples}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _blocks(self, epoch: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """Shards of each block, and the position at which each block begins."""
        order = np.argsort(_hash(self.seed, epoch, "shards", np.arange(len(self.samples))), kind="stable")
        blocks: list[NDArray[np.int64]] = []
        begin, filled = 0, 0
        for end, shard in enumerate(order, start=1):
            filled += int(self.samples[shard])
            if filled >= self.block_samples or end - begin == _MOST_SHARDS or end == len(order):
                blocks.append(order[begin:end])
                begin, filled = end, 0
        sizes = [int(self.samples[block].sum()) for block in blocks]
        return blocks, np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)

    def _ids(self, epoch: int, number: int) -> NDArray[np.int64]:
        """The samples of a block in their order, counted through all shards."""
        shards = self._epoch(epoch)[0][number]
        ids = np.concatenate([np.arange(self._first[shard], self._first[shard + 1]) for shard in shards])
        return ids[np.argsort(_hash(self.seed, epoch, "samples", ids), kind="stable")]


def _hash(seed: int, epoch: int, use: str, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A 64-bit hash of each number (the finaliser of SplitMix64 over a start drawn from seed, epoch and use)."""
    start = hashlib.blake2b(f"{seed}/{epoch}/{use}".encode(), digest_size=8).digest()
    z = np.uint64(int.from_bytes(start, "big")) + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
