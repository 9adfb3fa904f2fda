"""What an evaluation finds: numbers, one row per image, and what its report shows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.report_data import ReportData

ItemRow = dict[str, Any]
"""One item of a set.

An image of a split: `key`, `image_to_text_rank` (null without caption), `text_to_image_ranks` (one per caption), `label` and
`zero_shot_rank` (null where there are no classes), `caption_nats` (sum) and `caption_tokens`, `teacher_forced` (the words before
were given). Where it was measured also `long_image_to_text_rank` and `long_text_to_image_ranks`; of a written caption, null where
there is none, `caption_references` (whose captions it is scored by), `caption_rouge_l`, `caption_cider`, `caption_matches` and
`caption_ngrams` (of each order), `caption_words` and `caption_reference_words`; `linear_right` and `knn_right`, null without
label, and `probe_terms` (the samples that were learned from); `zero_shot_terms` (digest of class names and prompts).
An entry of SugarCrepe: `set`, `key` (subset and name), `subset`, `image` (file name), `right`. Of Winoground: `set`, `key` (line),
`text_right`, `image_right`.
All: `set_version` and `model` where the samples come from prepared shards or files and the model from files. Ranks count from 0."""

SET_VERSION = "set_version"
"""Key of a row: digest of the samples that were evaluated. Results on other samples are not compared."""

MODEL = "model"
"""Key of a row: digest of the model that was evaluated. Results of another model are not registered."""


@dataclass(frozen=True)
class EvaluationResult:
    """All results of one model on one set.

    Attributes:
        set_name: of the set, the middle part of the metric keys.
        metrics: flat, finite numbers by key, as they stand in `metrics.json`.
        per_item: one row per image, in the order of the shards.
        compositionality: one row per entry of SugarCrepe and Winoground; empty where neither is configured.
        report_data: for the reports.
    """

    set_name: str
    metrics: dict[str, float]
    per_item: list[ItemRow]
    report_data: ReportData = field(repr=False)
    compositionality: list[ItemRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_finite(self.metrics)


def check_finite(metrics: Mapping[str, float]) -> None:
    """Refuse what is not a number.

    Raises:
        ConfigError: a metric is NaN or infinite; the message names all of them. JSON has no such numbers, and MLflow's
            run page does not open with one.
    """
    bad = [f"{name} is {value}" for name, value in sorted(metrics.items()) if not math.isfinite(value)]
    if bad:
        raise ConfigError(
            f"metrics: {', '.join(bad)}; the model has diverged or the set is unusable, so nothing is written"
        )
