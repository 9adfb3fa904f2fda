"""Which pictures and captions the report shows: the worst failures, and some evenly spaced over the set for a fair look."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clips_pipeline.evaluation.exhibits import CaptionExample, ImageExample, Picture
from clips_pipeline.evaluation.retrieval import NO_CAPTION, FloatArray, IntArray, RetrievalRanks

SHOWN = 5
"""Answers shown for each question."""


@dataclass(frozen=True)
class Choice:
    """Numbers of the queries that are shown, and of the images needed for that."""

    worst_images: tuple[int, ...]
    even_images: tuple[int, ...]
    worst_captions: tuple[int, ...]
    even_captions: tuple[int, ...]
    best_images: Mapping[int, Sequence[int]]
    wanted: frozenset[int]


def choose(image_NE: FloatArray, text_ME: FloatArray, owner_M: IntArray, ranks: RetrievalRanks, count: int) -> Choice:
    """Choose queries of both directions.

    Args:
        image_NE, text_ME, owner_M: as for `retrieval_ranks`.
        ranks: of all images and captions.
        count: of each kind.
    """
    # An image without a caption is no query.
    asked = np.flatnonzero(ranks.image_to_text != NO_CAPTION)
    even_images = _worst_first(asked[_spaced(len(asked), count)], ranks.image_to_text)
    worst_images = _failures(ranks.image_to_text, np.arange(len(image_NE)), count)
    even_captions = _worst_first(_spaced(len(text_ME), count), ranks.text_to_image)
    worst_captions = _failures(ranks.text_to_image, owner_M, count)
    captions = {*even_captions, *worst_captions}
    best_images = {j: _best(image_NE @ text_ME[j]) for j in sorted(captions)}
    found = (i for best in best_images.values() for i in best)
    wanted = frozenset({*even_images, *worst_images, *found, *(int(owner_M[j]) for j in captions)})
    return Choice(worst_images, even_images, worst_captions, even_captions, best_images, wanted)


def image_examples(
    queries: Iterable[int],
    pictures: Mapping[int, Picture],
    image_NE: FloatArray,
    text_ME: FloatArray,
    owner_M: IntArray,
    texts: Sequence[str],
    ranks: RetrievalRanks,
) -> tuple[ImageExample, ...]:
    """Images with the captions that the model puts first; `pictures` has all `Choice.wanted`."""
    found = []
    for i in queries:
        best = _best(text_ME @ image_NE[i])
        truth = tuple(texts[j] for j in np.flatnonzero(owner_M == i))
        captions = tuple((texts[j], bool(owner_M[j] == i)) for j in best)
        found.append(ImageExample(pictures[i], int(ranks.image_to_text[i]), captions, truth))
    return tuple(found)


def caption_examples(
    queries: Iterable[int],
    pictures: Mapping[int, Picture],
    choice: Choice,
    owner_M: IntArray,
    texts: Sequence[str],
    ranks: RetrievalRanks,
) -> tuple[CaptionExample, ...]:
    """Captions with the images that the model puts first."""
    return tuple(
        CaptionExample(
            texts[j],
            int(ranks.text_to_image[j]),
            tuple((pictures[i], bool(owner_M[j] == i)) for i in choice.best_images[j]),
            pictures[int(owner_M[j])],
        )
        for j in queries
    )


def _spaced(total: int, count: int) -> list[int]:
    # Distinct also where fewer are there than asked for.
    return sorted({int(i) for i in np.linspace(0, total - 1, min(count, total))})


def _worst_first(queries: Iterable[int], rank_X: IntArray) -> tuple[int, ...]:
    return tuple(sorted(map(int, queries), key=lambda x: -rank_X[x]))


def _failures(rank_X: IntArray, image_X: IntArray, count: int) -> tuple[int, ...]:
    """The queries that failed, worst first; no two of one image, whose captions often fail together."""
    found: list[int] = []
    images: set[int] = set()
    for x in np.argsort(-rank_X, kind="stable"):
        if len(found) == count or rank_X[x] <= 0:
            break
        if int(image_X[x]) not in images:
            images.add(int(image_X[x]))
            found.append(int(x))
    return tuple(found)


def _best(scores_X: FloatArray) -> list[int]:
    return [int(i) for i in np.argsort(-scores_X, kind="stable")[:SHOWN]]
