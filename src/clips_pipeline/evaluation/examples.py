"""Which pictures and captions the report shows: evenly spaced over the set, not chosen by how well they went."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from clips_pipeline.evaluation.results import CaptionExample, ImageExample, Picture
from clips_pipeline.evaluation.retrieval import FloatArray, IntArray, RetrievalRanks
from clips_pipeline.shards.records import Record

SHOWN = 5
"""Answers shown for each question."""


def choose_examples(
    image_NE: FloatArray,
    text_ME: FloatArray,
    owner_M: IntArray,
    texts: Sequence[str],
    ranks: RetrievalRanks,
    count: int,
    read: Callable[[], Iterable[Record]],
) -> tuple[tuple[ImageExample, ...], tuple[CaptionExample, ...]]:
    """Examples of both directions.

    Args:
        image_NE, text_ME, owner_M: as for `retrieval_ranks`.
        texts: the M captions.
        ranks: of all images and captions.
        count: examples of each direction.
        read: gives the N samples again, in order. Only the pictures shown are kept, so a large set fits.
    """
    images, captions = _spaced(len(image_NE), count), _spaced(len(texts), count)
    best_texts = {i: _best(text_ME @ image_NE[i]) for i in images}
    best_images = {j: _best(image_NE @ text_ME[j]) for j in captions}
    wanted = {*images, *(i for best in best_images.values() for i in best)}
    pictures = {
        i: Picture(record.key, record.image, record.extension) for i, record in enumerate(read()) if i in wanted
    }
    image_examples = tuple(
        ImageExample(
            pictures[i], int(ranks.image_to_text[i]), tuple((texts[j], bool(owner_M[j] == i)) for j in best_texts[i])
        )
        for i in images
    )
    caption_examples = tuple(
        CaptionExample(
            texts[j], int(ranks.text_to_image[j]), tuple((pictures[i], bool(owner_M[j] == i)) for i in best_images[j])
        )
        for j in captions
    )
    return image_examples, caption_examples


def _spaced(total: int, count: int) -> list[int]:
    # Distinct also where fewer are there than asked for.
    return sorted({int(i) for i in np.linspace(0, total - 1, min(count, total))})


def _best(score_X: FloatArray) -> list[int]:
    return [int(i) for i in np.argsort(-score_X, kind="stable")[:SHOWN]]
