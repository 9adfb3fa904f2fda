"""Histograms of non-negative integers that can be merged."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Smaller values have bins of their own; above, there are 16 bins of equal width per octave.
_EXACT = 32


@dataclass(frozen=True, slots=True)
class Histogram:
    """Histogram of non-negative integers. All histograms have the same bins, so they can be merged.

    Attributes:
        count: number of values.
        total: sum of the values.
        low: smallest value; 0 without values.
        high: largest value; 0 without values.
        bins: `(first value of the bin, number of values in it)` in order, without empty bins; `bin_end` gives the end.
    """

    count: int = 0
    total: int = 0
    low: int = 0
    high: int = 0
    bins: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_values(cls, values: NDArray[Any]) -> "Histogram":
        """Return the histogram of non-negative integers."""
        if not len(values):
            return cls()
        numbers = values.astype(np.int64)
        # 16 bins per octave: the five highest bits select the bin.
        shifts = np.maximum(np.frexp(numbers.astype(np.float64))[1] - 5, 0)
        starts, counts = np.unique((numbers >> shifts) << shifts, return_counts=True)
        bins = tuple(zip(starts.tolist(), counts.tolist(), strict=True))
        return cls(len(numbers), int(numbers.sum()), int(numbers.min()), int(numbers.max()), bins)

    @property
    def mean(self) -> float:
        """Exact mean of the values; 0 without values."""
        return self.total / max(self.count, 1)

    def merge(self, other: "Histogram") -> "Histogram":
        """Return the histogram of the values of both."""
        if not self.count or not other.count:
            return self if self.count else other
        bins = dict(self.bins)
        for start, count in other.bins:
            bins[start] = bins.get(start, 0) + count
        return Histogram(
            self.count + other.count,
            self.total + other.total,
            min(self.low, other.low),
            max(self.high, other.high),
            tuple(sorted(bins.items())),
        )

    def quantile(self, fraction: float) -> int:
        """Return the quantile for a `fraction` from 0 to 1, as the last value of its bin."""
        target, seen = fraction * self.count, 0
        for start, count in self.bins:
            seen += count
            if seen >= target:
                return min(bin_end(start) - 1, self.high)
        return self.high


def bin_end(start: int) -> int:
    """Return the first value after the bin that begins at `start`."""
    return start + 1 if start < _EXACT else start + (1 << (start.bit_length() - 5))
