"""Selection of the examples in the report: the worst failures, and queries evenly spaced over the set as an unbiased sample.

Shapes: N images, M captions, E embedding width, X either.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from clips_pipeline.data.shards.records import Record
from clips_pipeline.evaluation.embedding_map import embedding_map
from clips_pipeline.evaluation.inference.caption_examples import caption_record
from clips_pipeline.evaluation.inference.embed import Embedder, TowerEmbedder
from clips_pipeline.evaluation.inference.image_pass import ImagePass
from clips_pipeline.evaluation.metrics.caption_questions import Answers
from clips_pipeline.evaluation.metrics.retrieval import NO_CAPTION, FloatArray, IntArray, RetrievalResult
from clips_pipeline.evaluation.report_data import (
    CaptionExample,
    CaptioningExample,
    ImageExample,
    QuestionExample,
    ReportData,
    ReportImage,
)

SHOWN = 5
"""Answers shown per query."""


def select_examples(
    plain: ReportData,
    image_pass: ImagePass,
    classes: Sequence[str | None],
    image_NE: FloatArray,
    retrieval: RetrievalResult | None,
    embedder: TowerEmbedder,
    read: Callable[[], Iterable[Record]],
    count: int,
) -> ReportData:
    """Return `plain` with the embedding map, example queries of both directions, and written captions.

    Args:
        plain: report data without these fields.
        image_pass: results of the image pass over N images.
        classes: class names of the N images, None for images without a class.
        image_NE: image embeddings.
        retrieval: retrieval results; None without captions.
        embedder: embedder whose model writes the captions.
        read: yields the N samples again, in the same order. Only the samples shown are held in memory.
        count: number of examples of each kind.
    """
    if retrieval is None:
        return replace(plain, embedding_map=embedding_map(image_NE, None, None, image_pass.keys, classes))
    text_ME, owner_M, ranks = retrieval.embeddings, retrieval.owners, retrieval.ranks
    plain = replace(plain, embedding_map=embedding_map(image_NE, text_ME, owner_M, image_pass.keys, classes))
    if not count:
        return plain
    # Images without captions are not queries.
    queries = np.flatnonzero(ranks.image_to_text != NO_CAPTION)
    even_images = _worst_first(queries[_spaced(len(queries), count)], ranks.image_to_text)
    worst_images = _failures(ranks.image_to_text, np.arange(len(image_NE)), count)
    even_captions = _worst_first(_spaced(len(text_ME), count), ranks.text_to_image)
    worst_captions = _failures(ranks.text_to_image, owner_M, count)
    best_images = {j: _best(image_NE @ text_ME[j]) for j in sorted({*even_captions, *worst_captions})}
    owners = (int(owner_M[j]) for j in best_images)
    wanted = {*even_images, *worst_images, *chain.from_iterable(best_images.values()), *owners}
    records = {i: record for i, record in enumerate(read()) if i in wanted}
    images = {i: ReportImage.of(record) for i, record in records.items()}

    def image(i: int) -> ImageExample:
        captions = tuple((retrieval.texts[j], bool(owner_M[j] == i)) for j in _best(text_ME @ image_NE[i]))
        truth = tuple(retrieval.texts[j] for j in np.flatnonzero(owner_M == i).tolist())
        return ImageExample(images[i], int(ranks.image_to_text[i]), captions, truth)

    def caption(j: int) -> CaptionExample:
        best = tuple((images[i], bool(owner_M[j] == i)) for i in best_images[j])
        return CaptionExample(retrieval.texts[j], int(ranks.text_to_image[j]), best, images[int(owner_M[j])])

    captioned = []
    if isinstance(embedder, Embedder) and embedder.model.captioner is not None:
        for i in even_images:
            example = caption_record(embedder.model, records[i], embedder.tokenizer, embedder.towers.image_transform)
            loss = image_pass.nats[i] / image_pass.tokens[i] if image_pass.tokens[i] else None
            captioned.append(
                CaptioningExample(
                    images[i],
                    example.web,
                    example.synthetic,
                    example.at_once,
                    example.beam,
                    loss,
                    example.at_once_words,
                )
            )
    return replace(
        plain,
        worst_images=tuple(map(image, worst_images)),
        even_images=tuple(map(image, even_images)),
        worst_captions=tuple(map(caption, worst_captions)),
        even_captions=tuple(map(caption, even_captions)),
        captioned=tuple(sorted(captioned, key=lambda example: -(example.loss or 0.0))),
    )


def select_questions(answers: Answers, read: Callable[[], Iterable[Record]], count: int) -> tuple[QuestionExample, ...]:
    """Return questions as examples: evenly spaced over the set, independent of the answers, the subsets in turn.

    Args:
        answers: the questions and the model's answers.
        read: yields the samples. Only the samples shown are held in memory.
        count: number of examples; with fewer, some subsets have none.
    """
    names = [question.subset for question in answers.questions]
    of_subset = [[q for q, name in enumerate(names) if name == subset] for subset in answers.subsets]
    turns = len(of_subset)
    rounds = -(-count // turns) if turns else 0
    # Each subset from another place on, so that the examples are of different images.
    spaced = (
        own[len(own) * (turn * turns + number) // (rounds * turns)]
        for turn in range(rounds)
        for number, own in enumerate(of_subset)
    )
    chosen = list(dict.fromkeys(spaced))[:count]
    owners = {int(answers.owners[q]) for q in chosen}
    images = {i: ReportImage.of(record) for i, record in enumerate(read()) if i in owners} if chosen else {}
    return tuple(
        QuestionExample(images[int(answers.owners[q])], *answers.questions[q], bool(answers.right[q])) for q in chosen
    )


def _spaced(total: int, count: int) -> list[int]:
    # The set removes duplicates if there are fewer than `count`.
    return sorted({int(i) for i in np.linspace(0, total - 1, min(count, total))})


def _worst_first(queries: Iterable[int], rank_X: IntArray) -> list[int]:
    return sorted(map(int, queries), key=lambda x: -rank_X[x])


def _failures(rank_X: IntArray, image_X: IntArray, count: int) -> list[int]:
    """Return the failed queries, worst first, at most one per image, since captions of one image often fail together."""
    worst: dict[int, int] = {}
    for x in np.argsort(-rank_X, kind="stable").tolist():
        if len(worst) == count or rank_X[x] <= 0:
            break
        worst.setdefault(int(image_X[x]), x)
    return list(worst.values())


def _best(scores_X: FloatArray) -> list[int]:
    return [int(i) for i in np.argsort(-scores_X, kind="stable")[:SHOWN]]
