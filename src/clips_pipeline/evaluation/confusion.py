"""Zero-shot classes that are taken for others.

Legend of suffixes: N images, C classes, E embedding width.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clips_pipeline.evaluation.retrieval import IntArray

MOST_CLASSES = 16
MOST_PAIRS = 12


@dataclass(frozen=True)
class Mistake:
    """Images of one class taken for another: how many, of how many."""

    of: str
    taken_for: str
    images: int
    of_images: int


@dataclass(frozen=True)
class Confusion:
    """Counts of images by class and by the class they are taken for.

    Attributes:
        classes: that there are in all, with images or without.
        names: of the classes with most images, in their order.
        counts: a row for each of `names`, a column for each of them, and a last one for all others.
        mistakes: the most frequent ones among all classes, most frequent first.
    """

    classes: int
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]


def taken_for(
    image_NE: npt.NDArray[Any], class_CE: npt.NDArray[Any], label_N: npt.NDArray[Any], rank_N: npt.NDArray[Any]
) -> IntArray:
    """The class (N,) of each image: the right one where its rank is 0, and else the best of the others, as accuracy counts."""
    score_NC = np.asarray(image_NE, np.float32) @ np.asarray(class_CE, np.float32).T
    score_NC[np.arange(len(label_N)), label_N] = -np.inf
    others_N = score_NC.argmax(axis=1)
    found: IntArray = np.where(rank_N == 0, label_N, others_N).astype(np.int64)
    return found


def confusion(label_N: npt.NDArray[Any], found_N: npt.NDArray[Any], names: Sequence[str]) -> Confusion:
    """Count.

    Args:
        label_N: right classes.
        found_N: of `taken_for`.
        names: of all classes.
    """
    images = Counter(label_N.tolist())
    # Of classes with equally many images the first ones are shown.
    shown = sorted(sorted(images, key=lambda label: (-images[label], label))[:MOST_CLASSES])
    pairs = Counter(zip(label_N.tolist(), found_N.tolist(), strict=True))
    rows = []
    for label in shown:
        row = [pairs[label, other] for other in shown]
        rows.append((*row, images[label] - sum(row)))
    wrong = sorted(((pair, count) for pair, count in pairs.items() if pair[0] != pair[1]), key=lambda e: (-e[1], *e[0]))
    mistakes = tuple(Mistake(names[a], names[b], count, images[a]) for (a, b), count in wrong[:MOST_PAIRS])
    return Confusion(len(names), tuple(names[label] for label in shown), tuple(rows), mistakes)
