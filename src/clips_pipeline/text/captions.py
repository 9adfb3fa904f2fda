"""Captions of one image: which model wrote a caption, and which of several captions a training reads.

Every draw is a pure function of (seed, epoch, key), so it depends neither on the number of ranks and loader workers nor
on the samples read before.
"""

import hashlib
import random
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Caption(NamedTuple):
    """A synthetic caption, and the name of the model that wrote it; empty if the name is unknown."""

    text: str
    captioner: str = ""


def draw(items: Sequence[T], seed: int, epoch: int, key: str, purpose: str) -> T:
    """Draw one of several items uniformly; one item alone takes no random number.

    Args:
        items: at least one item.
        seed: seed of the training.
        epoch: number of completed passes over the data.
        key: key of the sample.
        purpose: name of the random stream, see `generator`.
    """
    return items[0] if len(items) == 1 else generator(seed, epoch, key, purpose).choice(items)


def written_by(captions: Sequence[Caption], captioners: Collection[str] | None) -> Sequence[Caption]:
    """Return the captions of these captioners, in order; all captions if `captioners` is None."""
    if captioners is None:
        return captions
    return [caption for caption in captions if caption.captioner in captioners]


def generator(seed: int, epoch: int, key: str, purpose: str = "") -> random.Random:
    """Return a random generator that is a pure function of the arguments, on every machine and in every process.

    Args:
        seed: seed of the training.
        epoch: number of completed passes over the data.
        key: key of the sample.
        purpose: name of the random stream, at most 16 bytes; streams of one sample are independent.
    """
    # Python's hash() of a string differs between processes.
    text = f"{seed}/{epoch}/{key}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, person=purpose.encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - not used for cryptography
