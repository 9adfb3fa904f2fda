"""A synthetic evaluation with hostile texts, and the facts of a registered version."""

import base64
import io
from typing import Any

from PIL import Image
from tests.unit.reports.data.hostile_texts import TEXTS

from clips_pipeline.evaluation.embedding_map import EmbeddingMap, MapPoint
from clips_pipeline.evaluation.metrics.zero_shot import Confusion, Mistake
from clips_pipeline.evaluation.per_item.items import items_from_rows
from clips_pipeline.evaluation.report_data import (
    CaptionExample,
    CaptioningExample,
    ImageExample,
    QuestionExample,
    ReportData,
    ReportImage,
)
from clips_pipeline.evaluation.results import EvaluationResult
from clips_pipeline.reports.model.pages import Link, ModelFacts
from clips_pipeline.reports.model.scores import score_metrics

METRIC = "retrieval/scenes/mean_recall@1"
METRICS = {METRIC: 0.25, "zero_shot/scenes/accuracy@1": 0.5, "caption/scenes/loss": 3.5}
METRICS |= {f"compositionality/scenes/{name}_accuracy": 0.75 for name in ("swap_color", "mean")}


def picture(key: str, about: str = "") -> ReportImage:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(stream, "WEBP")
    return ReportImage(key, about, base64.b64encode(stream.getvalue()).decode())


def rows(found: int, images: int = 40) -> list[dict[str, Any]]:
    """Per-item results of a model that finds the first `found` images."""
    return [
        {
            "key": f"{i} {TEXTS[0]}",
            "image_to_text_rank": 0 if i < found else 3,
            "text_to_image_ranks": [0 if i < found else 5, 7],
            "label": 0,
            "zero_shot_rank": 0 if i < found else 1,
            "caption_nats": 7.0 - i / 100,
            "caption_tokens": 2,
            "question_swap_color": [int(i < found)] * (i % 3),
        }
        for i in range(images)
    ]


def report_data(texts: list[str]) -> ReportData:
    """Return report data with one query of each kind per text."""
    images = tuple(ImageExample(picture(one, one), 2, ((one, False), ("other", False)), (one, "mine")) for one in texts)
    captions = tuple(
        CaptionExample(one, 9, ((picture("x", one), False), (picture("y"), False)), picture(one)) for one in texts
    )
    right = (ImageExample(picture("k"), 0, (("mine", True), ("other", False)), ("mine",)),)
    found = (CaptionExample("mine", 0, ((picture("k"), True), (picture("y"), False)), picture("k")),)
    return ReportData(
        "scenes",
        {METRIC: 0.0625},
        images,
        captions,
        right,
        found,
        tuple(CaptioningExample(picture(one), one, one, one, one, 2.5, ((one, 0.25), (one, 1.0))) for one in texts),
        EmbeddingMap(
            tuple(MapPoint(one, one, (i, -i), (i / 2, 1) if i % 2 else None) for i, one in enumerate(texts)),
            99,
            (0.5, 0.25),
            1.25,
        ),
        Confusion(
            len(texts),
            tuple(texts),
            tuple(tuple(int(a == b) for b in range(len(texts) + 1)) for a in range(len(texts))),
            tuple(Mistake(one, one, 1, 2) for one in texts),
        ),
        tuple(QuestionExample(picture(one), one, one, f"not {one}", right) for one in texts for right in (True, False)),
    )


def facts(texts: list[str], champion: int | None = 10, found: int = 30) -> ModelFacts:
    """Return the facts of a version with a champion that finds `champion` images; None for no champion."""
    other = None if champion is None else {"scenes": items_from_rows(rows(champion))}
    foreign = texts[0]
    return ModelFacts(
        f"clips {foreign}, version 2",
        f"better: {foreign}",
        True,
        METRIC,
        score_metrics(METRICS, {METRIC: 0.0625}, {"scenes": items_from_rows(rows(found))}, other, resamples=200),
        None if champion is None else f"clips {foreign}, version 1",
        f"The champion then was {foreign}",
        [
            {"step": 2 * i, "samples": 32 * i, "loss_contrastive": 3 - i / 99, "logit_scale": 14.0, "nothing": None}
            for i in range(1, 40)
        ],
        "<p>No findings.</p>",
        [Link(foreign, None, foreign)],
        [Link(foreign, "http://127.0.0.1:5000/#/runs/1"), Link("bad", f"javascript:{foreign}", "")],
        [(foreign, foreign)],
        foreign,
    )


def result(texts: list[str], **changes: Any) -> EvaluationResult:
    values = {"set_name": "scenes", "metrics": METRICS, "per_item": rows(20), "report_data": report_data(texts)}
    return EvaluationResult(**(values | changes))
