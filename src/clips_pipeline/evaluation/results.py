"""Results of an evaluation: metrics, per-item rows and report data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.report_data import ReportData

ItemRow = dict[str, Any]
"""Per-item results of one item of a set.

Image of a split, always: `key`, `image_to_text_rank` (null without captions), `text_to_image_ranks` (one per caption), `label`
and `zero_shot_rank` (null without classes), `caption_nats` (sum), `caption_tokens`, `teacher_forced` (the captioner read the
previous tokens). If computed:
- long captions: `long_image_to_text_rank`, `long_text_to_image_ranks`;
- written caption (null without one): `caption_references` (which captions it is scored by), `caption_rouge_l`, `caption_cider`,
  `caption_matches` and `caption_ngrams` (per order), `caption_words`, `caption_reference_words`;
- probe: `linear_right` and `knn_right` (null without a label), `probe_terms` (digest of the training samples);
- zero-shot: `zero_shot_terms` (digest of class names and templates);
- compositional questions: `question_SUBSET` for each subset, 1 for each right answer to one about the image, 0 for each wrong one.
Entry of SugarCrepe: `set`, `key` (subset and name), `subset`, `image` (file name), `right`.
Entry of SugarCrepe++: `set`, `key`, `subset`, `image`, `image_to_text_right`, `text_to_text_right`.
Entry of Winoground: `set`, `key` (line), `text_right`, `image_right`.
Pair of MMVP-VLM: `set`, `key` (both numbers), `subset` (pattern), `right`.
All: `set_version` and `model`, if samples and model come from files. Ranks count from 0."""

SET_VERSION = "set_version"
"""Column: digest of the evaluated samples. Results on different samples are not compared."""

QUESTION_COLUMN = "question_"
"""Column: what the names of those with answers to questions begin with; the rest is the subset."""

MODEL = "model"
"""Column: digest of the evaluated model. `register` refuses results of another model."""


@dataclass(frozen=True)
class EvaluationResult:
    """All results of one model on one set.

    Attributes:
        set_name: name of the set, the middle part of the metric keys.
        metrics: finite numbers by key, as in `metrics.json`.
        per_item: one row per image, in the order of the shards.
        compositionality: one row per entry of SugarCrepe and Winoground; empty if neither is configured.
        report_data: data for the reports.
    """

    set_name: str
    metrics: dict[str, float]
    per_item: list[ItemRow]
    report_data: ReportData = field(repr=False)
    compositionality: list[ItemRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_finite(self.metrics)


def check_finite(metrics: Mapping[str, float]) -> None:
    """Check that all metrics are finite: JSON has no NaN, and MLflow's run page fails to open with one.

    Raises:
        ConfigError: a metric is NaN or infinite; the message names all of them.
    """
    bad = [f"{name} is {value}" for name, value in sorted(metrics.items()) if not math.isfinite(value)]
    if bad:
        raise ConfigError(
            f"metrics: {', '.join(bad)}: the model has diverged or the set is unusable; no results were written"
        )
