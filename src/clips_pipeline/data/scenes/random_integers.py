"""Random integers that are the same on every machine: SplitMix64 in plain Python.

The generators of Python and NumPy may change between versions how they turn bits into choices; images and captions of
the embedded data must not change.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_MASK = (1 << 64) - 1
_HALF = 1 << 53


class RandomStream:
    """An endless stream of random choices that depends only on its name."""

    __slots__ = ("_state",)

    def __init__(self, *name: str | int) -> None:
        label = "/".join(str(part) for part in name).encode()
        self._state = int.from_bytes(hashlib.blake2b(label, digest_size=8).digest(), "big")

    def bits(self) -> int:
        """Return the next 64 random bits, as an integer in [0, 2**64)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def below(self, bound: int) -> int:
        """Return an integer in [0, bound)."""
        return (self.bits() * bound) >> 64

    def between(self, low: int, high: int) -> int:
        """Return an integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability; raising the probability keeps every earlier True."""
        return (self.bits() >> 11) < probability * _HALF

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of `choices`, each equally likely."""
        return choices[self.below(len(choices))]

    def pick_weighted(self, choices: Sequence[tuple[T, int]]) -> T:
        """Return one item of (item, weight) pairs, in proportion to its integer weight."""
        rest = self.below(sum(weight for _, weight in choices))
        for item, weight in choices:
            if rest < weight:
                return item
            rest -= weight
        raise ValueError("choices need a positive weight")

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a random order, as a new list."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order
