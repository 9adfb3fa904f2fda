"""Per-item rows of the images of a split, from the results of one evaluation. Shapes: N images, M images with a label."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from clips_pipeline.evaluation.inference.image_pass import ImagePass
from clips_pipeline.evaluation.metrics.caption_scores import CaptionScore
from clips_pipeline.evaluation.metrics.linear_probe import Flags
from clips_pipeline.evaluation.metrics.retrieval import NO_CAPTION, RetrievalResult
from clips_pipeline.evaluation.results import ItemRow


def item_rows(
    image_pass: ImagePass,
    retrievals: Mapping[str, RetrievalResult],
    zero_shot: Mapping[int, int],
    scores: Sequence[CaptionScore],
    settings: Mapping[str, Any],
) -> list[ItemRow]:
    """Return one row per image. Apart from the columns that are always there, metrics not computed have no column.

    Args:
        image_pass: results of the image pass over N images.
        retrievals: retrieval results by kind.
        zero_shot: image number to rank.
        scores: scores of the written captions, in the order of `image_pass.captioned`.
        settings: columns with the settings of metrics, the same for all images.
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
            **settings,
        }
        for i, (key, label, nats, tokens) in enumerate(
            zip(image_pass.keys, image_pass.labels, image_pass.nats, image_pass.tokens, strict=True)
        )
    ]
    for kind, retrieval in retrievals.items():
        prefix = "long_" if kind == "retrieval_long" else ""
        for row, rank in zip(rows, retrieval.ranks.image_to_text.tolist(), strict=True):
            row[f"{prefix}image_to_text_rank"] = None if rank == NO_CAPTION else rank
            row[f"{prefix}text_to_image_ranks"] = []
        for owner, rank in zip(retrieval.owners.tolist(), retrieval.ranks.text_to_image.tolist(), strict=True):
            rows[owner][f"{prefix}text_to_image_ranks"].append(rank)
    if scores:
        of_image = dict(zip(image_pass.captioned, scores, strict=True))
        for i, row in enumerate(rows):
            for one in fields(CaptionScore):
                value = getattr(of_image[i], one.name) if i in of_image else None
                row[f"caption_{one.name}"] = list(value) if isinstance(value, tuple) else value
    return rows


def add_probe_results(rows: Sequence[ItemRow], linear_right_M: Flags, knn_right_M: Flags, settings: str) -> None:
    """Add to each row whether the classifiers were right; None for images without a label.

    Args:
        rows: rows of all images.
        linear_right_M: whether the linear classifier was right, for the M images with a label.
        knn_right_M: the same for the nearest-neighbor classifier.
        settings: digest of the training samples of the classifiers.
    """
    right = zip(linear_right_M.tolist(), knn_right_M.tolist(), strict=True)
    for row in rows:
        linear, knn = (None, None) if row["label"] is None else next(right)
        row |= {"linear_right": linear, "knn_right": knn, "probe_terms": settings}
