"""Random numbers that are the same on every machine: whole-number arithmetic in plain Python (SplitMix64).

Python's and NumPy's own generators may change how they turn bits into choices between versions; pictures and captions
of the embedded data must not.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_MASK = (1 << 64) - 1
_HALF = 1 << 53


class Draws:
    """An endless stream of choices, fully determined by the parts it was named with."""

    __slots__ = ("_state",)

    def __init__(self, *name: str | int) -> None:
        label = "/".join(str(part) for part in name).encode()
        self._state = int.from_bytes(hashlib.blake2b(label, digest_size=8).digest(), "big")

    def bits(self) -> int:
        """The next 64 random bits, as an integer in [0, 2**64)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def below(self, bound: int) -> int:
        """A whole number in [0, bound)."""
        return (self.bits() * bound) >> 64

    def between(self, low: int, high: int) -> int:
        """A whole number in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, probability: float) -> bool:
        """True with the given probability; at a higher probability every earlier True stays True."""
        return (self.bits() >> 11) < probability * _HALF

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`, each equally likely."""
        return choices[self.below(len(choices))]

    def pick_weighted(self, choices: Sequence[tuple[T, int]]) -> T:
        """One item of (item, weight) pairs, in proportion to its whole-number weight."""
        rest = self.below(sum(weight for _, weight in choices))
        for item, weight in choices:
            if rest < weight:
                return item
            rest -= weight
        raise ValueError("choices need a positive weight")

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in a random order, as a new list."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order
