"""The rows of per-item results, from what an evaluation has found: what every metric is computed from again.

Legend of suffixes: N images.
"""

from collections.abc import Mapping, Sequence

from clips_pipeline.evaluation.caption_scores import CaptionScore
from clips_pipeline.evaluation.exhibiting import Asked
from clips_pipeline.evaluation.image_pass import ImagePass
from clips_pipeline.evaluation.probe import Probed
from clips_pipeline.evaluation.results import ItemRow
from clips_pipeline.evaluation.retrieval import NO_CAPTION


def item_rows(
    found: ImagePass,
    asked: Asked | None,
    long: Asked | None,
    zero_shot: Mapping[int, int],
    scores: Sequence[CaptionScore],
    forced: bool,
    terms: Mapping[str, str],
) -> list[ItemRow]:
    """One row an image; what was not measured on the set has no column, save what rows have always had.

    Args:
        found: the N images.
        asked: retrieval by their captions.
        long: by their long captions.
        zero_shot: image to rank.
        scores: of the captions written, in the order of `found.captioned`.
        forced: the caption loss is one with the words before given.
        terms: columns that are the same for all images: on what terms metrics were asked.
    """
    rows: list[ItemRow] = [
        {
            "key": key,
            "image_to_text_rank": None,
            "text_to_image_ranks": [],
            "label": label,
            "zero_shot_rank": zero_shot.get(i),
            "caption_nats": nats,
            "caption_tokens": tokens,
            "teacher_forced": forced,
            **terms,
        }
        for i, (key, label, nats, tokens) in enumerate(
            zip(found.keys, found.labels, found.nats, found.tokens, strict=True)
        )
    ]
    if asked is not None:
        _add_ranks(rows, asked, "image_to_text_rank", "text_to_image_ranks")
    if long is not None:
        _add_ranks(rows, long, "long_image_to_text_rank", "long_text_to_image_ranks")
    if scores:
        of_image = dict(zip(found.captioned, scores, strict=True))
        for i, row in enumerate(rows):
            row |= _caption_columns(of_image.get(i))
    return rows


def add_probed(rows: Sequence[ItemRow], probed: Probed, terms: str) -> None:
    """Add whether the classifiers were right about each image; None where it has no label, so that none was asked.

    Args:
        rows: of all images.
        probed: what came out for those with a label.
        terms: of the samples that were learned from.
    """
    for row in rows:
        row |= {"linear_right": None, "knn_right": None, "probe_terms": terms}
    labelled = [row for row in rows if row["label"] is not None]
    for row, linear, knn in zip(labelled, probed.linear_right.tolist(), probed.knn_right.tolist(), strict=True):
        row |= {"linear_right": linear, "knn_right": knn}


def _add_ranks(rows: Sequence[ItemRow], asked: Asked, image: str, texts: str) -> None:
    for row, rank in zip(rows, asked.ranks.image_to_text.tolist(), strict=True):
        row |= {image: None if rank == NO_CAPTION else rank, texts: []}
    for owner, rank in zip(asked.owners.tolist(), asked.ranks.text_to_image.tolist(), strict=True):
        rows[owner][texts].append(rank)


def _caption_columns(score: CaptionScore | None) -> ItemRow:
    return {
        "caption_rouge_l": None if score is None else score.rouge_l,
        "caption_cider": None if score is None else score.cider,
        "caption_matches": None if score is None else list(score.matches),
        "caption_ngrams": None if score is None else list(score.ngrams),
        "caption_words": None if score is None else score.words,
        "caption_reference_words": None if score is None else score.reference_words,
    }
