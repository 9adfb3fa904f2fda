"""Metrics from per-item results, for all items or for a resample of them.

Shapes: N items, E entries of a set, O orders of n-grams.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.metric_keys import short_key
from clips_pipeline.evaluation.metrics.caption_scores import bleu4_of_ratios
from clips_pipeline.evaluation.metrics.retrieval import RECALL_AT
from clips_pipeline.evaluation.per_item.bootstrap import NO_CLASS, IntArray, Ratio, RatioMetric, hit_ratio
from clips_pipeline.evaluation.results import QUESTION_COLUMN, SET_VERSION

_ACCURACY_AT = (1, 5)


@dataclass(frozen=True)
class ItemResults:
    """Per-item results of one model on one set.

    Attributes:
        keys: keys of the items that the bootstrap draws: images, or the pairs of Winoground.
        set_version: digest of the set; empty if unknown.
        metrics: metrics by key without the set, such as `retrieval/mean_recall@1`.
        settings: by the same keys, the settings that a metric depends on apart from model and samples, if known: class names,
            training samples of a probe, reference captions. Values with different settings are not comparable.
    """

    keys: tuple[str, ...]
    set_version: str
    metrics: dict[str, RatioMetric]
    settings: dict[str, str] = field(default_factory=dict)

    def metric_of(self, metric: str) -> RatioMetric:
        """Return a metric by its full key.

        Raises:
            ConfigError: the metric cannot be computed from these items.
        """
        found = self.metrics.get(short_key(metric))
        if found is None:
            raise ConfigError(
                f"{metric}: cannot be computed from these per-item results, only {', '.join(self.names())}; if an earlier "
                "release wrote them, evaluate again"
            )
        return found

    def has_metric(self, metric: str) -> bool:
        """Return whether a metric, given by its full key, can be computed."""
        return short_key(metric) in self.metrics

    def is_comparable(self, other: "ItemResults", metric: str) -> bool:
        """Return whether a metric, given by its full key, has the same settings in both, or unknown settings in one."""
        own, others = (one.settings.get(short_key(metric)) for one in (self, other))
        return own is None or others is None or own == others

    def values(self) -> dict[str, float]:
        """Compute every metric over all items, by key without the set."""
        return {name: metric.value() for name, metric in self.metrics.items()}

    def names(self) -> tuple[str, ...]:
        """Return the keys, without the set, of the metrics that can be computed."""
        return tuple(self.metrics)


def items_from_rows(rows: Iterable[Mapping[str, Any]]) -> ItemResults:
    """Build from rows of a split's images, as in `EvaluationResult.per_item`. Metrics without columns are left out.

    Raises:
        ConfigError: there are no rows, a key occurs twice, or rows are of several sets.
    """
    rows = list(rows)
    keys, version = _checked_keys(rows)
    shot_N = _ranks(rows, "zero_shot_rank")
    metrics = _retrieval(rows, "retrieval", "image_to_text_rank", "text_to_image_ranks")
    if "long_image_to_text_rank" in rows[0]:
        metrics |= _retrieval(rows, "retrieval_long", "long_image_to_text_rank", "long_text_to_image_ranks")
    query_N = shot_N >= 0
    if query_N.any():
        for k in _ACCURACY_AT:
            metrics[f"zero_shot/accuracy@{k}"] = RatioMetric((hit_ratio(shot_N < k, query_N),))
        class_N = np.where(query_N, _ranks(rows, "label"), NO_CLASS)
        if (class_N[query_N] != NO_CLASS).all():
            metrics["zero_shot/mean_per_class_accuracy@1"] = RatioMetric((hit_ratio(shot_N < 1, query_N, class_N),))
    metrics |= _captions(rows)
    for name in ("linear", "knn"):
        right = [row.get(f"{name}_right") for row in rows]
        labeled_N = np.array([flag is not None for flag in right])
        if labeled_N.any():
            right_N = np.array([bool(flag) for flag in right])
            metrics[f"probe/{name}_accuracy@1"] = RatioMetric((hit_ratio(right_N, labeled_N),))
    metrics |= _questions(rows)
    settings = {
        name: str(rows[0][column]) for name in metrics if (column := _settings_column(name, rows[0])) is not None
    }
    return ItemResults(keys, version, metrics, settings)


def _settings_column(name: str, row: Mapping[str, Any]) -> str | None:
    """Return the column with the settings of a metric; None if the row has none."""
    written = name in ("caption/rouge_l", "caption/cider", "caption/bleu4")
    column = "caption_references" if written else f"{name.partition('/')[0]}_terms"
    return column if row.get(column) is not None else None


def compositionality_items(rows: Iterable[Mapping[str, Any]]) -> dict[str, ItemResults]:
    """Build from rows of entries, as in `EvaluationResult.compositionality`, the items of each set that has rows.

    The items of SugarCrepe and SugarCrepe++ are images: entries on the same image stay together, like the captions of an image.

    Raises:
        ConfigError: an entry occurs twice, or rows are of several versions of a set.
    """
    by_set: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_set.setdefault(str(row["set"]), []).append(row)
    makers = {
        "sugarcrepe": _sugarcrepe,
        "sugarcrepe_pp": _sugarcrepe_pp,
        "winoground": _winoground,
        "mmvp_vlm": _mmvp_vlm,
    }
    if unknown := by_set.keys() - makers.keys():
        raise ConfigError(f"per-item results of unknown sets: {', '.join(sorted(unknown))}; known: {', '.join(makers)}")
    return {name: makers[name](of_set) for name, of_set in by_set.items()}


def _checked_keys(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], str]:
    """Return keys and set version of rows; each row must be one item, all of one set."""
    keys = tuple(str(row["key"]) for row in rows)
    versions = {str(row.get(SET_VERSION) or "") for row in rows}
    if not rows or len(set(keys)) < len(keys) or len(versions) > 1:
        raise ConfigError(
            f"per-item results: {len(rows)} rows, {len(set(keys))} different keys, {len(versions)} set versions; expected one "
            "row per item, all of one set; evaluate again"
        )
    return keys, versions.pop()


def _retrieval(rows: Sequence[Mapping[str, Any]], kind: str, image: str, texts: str) -> dict[str, RatioMetric]:
    rank_N = _ranks(rows, image)
    if not (rank_N >= 0).any():
        return {}
    ranks = [np.array(row[texts], np.int64) for row in rows]
    query_N = _numbers(len(own) for own in ranks)
    to_text = {k: hit_ratio(rank_N < k, rank_N >= 0) for k in RECALL_AT}
    to_image = {k: Ratio(_numbers(int(np.count_nonzero(own < k)) for own in ranks), query_N) for k in RECALL_AT}
    found = {f"{kind}/image_to_text_recall@{k}": RatioMetric((to_text[k],)) for k in RECALL_AT}
    found |= {f"{kind}/text_to_image_recall@{k}": RatioMetric((to_image[k],)) for k in RECALL_AT}
    return found | {f"{kind}/mean_recall@1": RatioMetric((to_text[1], to_image[1]))}


def _captions(rows: Sequence[Mapping[str, Any]]) -> dict[str, RatioMetric]:
    found = {}
    tokens_N = _numbers(row["caption_tokens"] for row in rows)
    if tokens_N.any():
        # Rows of earlier releases lack the column; their losses of method coca have the key of the others.
        name = "teacher_forced_loss" if rows[0].get("teacher_forced") else "loss"
        found[f"caption/{name}"] = RatioMetric((Ratio(_numbers(row["caption_nats"] for row in rows), tokens_N),))
    written_N = _numbers(row.get("caption_rouge_l") is not None for row in rows)
    if not written_N.any():
        return found
    matches_NO, tried_NO = (
        np.array([row[name] or [0] * 4 for row in rows], np.float64) for name in ("caption_matches", "caption_ngrams")
    )
    words_N, reference_N = (
        _numbers(row[name] or 0 for row in rows) for name in ("caption_words", "caption_reference_words")
    )
    precisions = tuple(Ratio(above_N, below_N) for above_N, below_N in zip(matches_NO.T, tried_NO.T, strict=True))
    lengths = (Ratio(reference_N, words_N), Ratio(written_N, written_N))
    found["caption/bleu4"] = RatioMetric(precisions + lengths, bleu4_of_ratios)
    for score in ("rouge_l", "cider"):
        value_N = _numbers(row[f"caption_{score}"] or 0.0 for row in rows)
        found[f"caption/{score}"] = RatioMetric((Ratio(value_N, written_N),))
    return found


def _questions(rows: Sequence[Mapping[str, Any]]) -> dict[str, RatioMetric]:
    """Return the accuracy of each subset of compositional questions and the mean over subsets; nothing without questions."""
    parts = {}
    for column in sorted(name for name in rows[0] if name.startswith(QUESTION_COLUMN)):
        right_N, asked_N = (_numbers(count(row[column]) for row in rows) for count in (sum, len))
        if asked_N.any():
            parts[column.removeprefix(QUESTION_COLUMN)] = Ratio(right_N, asked_N)
    found = {f"compositionality/{subset}_accuracy": RatioMetric((part,)) for subset, part in parts.items()}
    return found | ({"compositionality/mean_accuracy": RatioMetric(tuple(parts.values()))} if parts else {})


def _sugarcrepe(rows: Sequence[Mapping[str, Any]]) -> ItemResults:
    return _on_images(rows, "sugarcrepe", {"accuracy": "right"})


def _sugarcrepe_pp(rows: Sequence[Mapping[str, Any]]) -> ItemResults:
    names = ("image_to_text", "text_to_text")
    return _on_images(rows, "sugarcrepe_pp", {f"{name}_accuracy": f"{name}_right" for name in names})


def _on_images(rows: Sequence[Mapping[str, Any]], kind: str, columns: Mapping[str, str]) -> ItemResults:
    """Build the items of a set whose entries on the same image stay together: a metric per subset and column, and its mean."""
    _, version = _checked_keys(rows)
    images, image_E = np.unique([str(row["image"]) for row in rows], return_inverse=True)
    subset_E = np.array([str(row["subset"]) for row in rows])
    metrics: dict[str, RatioMetric] = {}
    for name, column in columns.items():
        right_E = _numbers(bool(row[column]) for row in rows)
        parts = {}
        for subset in np.unique(subset_E).tolist():
            above_N, below_N = (
                np.bincount(image_E, weights=of_subset_E, minlength=len(images)).astype(np.float64)
                for of_subset_E in (right_E * (subset_E == subset), (subset_E == subset).astype(np.float64))
            )
            parts[subset] = Ratio(above_N, below_N)
        metrics |= {f"{kind}/{subset}/{name}": RatioMetric((part,)) for subset, part in parts.items()}
        metrics[f"{kind}/mean/{name}"] = RatioMetric(tuple(parts.values()))
    return ItemResults(tuple(images.tolist()), version, metrics)


def _winoground(rows: Sequence[Mapping[str, Any]]) -> ItemResults:
    keys, version = _checked_keys(rows)
    text_N, image_N = (np.array([bool(row[name]) for row in rows]) for name in ("text_right", "image_right"))
    every_N = np.ones(len(rows), np.bool_)
    right = {"text": text_N, "image": image_N, "group": text_N & image_N}
    metrics = {
        f"winoground/all/{name}_score": RatioMetric((hit_ratio(hit_N, every_N),)) for name, hit_N in right.items()
    }
    return ItemResults(keys, version, metrics)


def _mmvp_vlm(rows: Sequence[Mapping[str, Any]]) -> ItemResults:
    keys, version = _checked_keys(rows)
    right_N = np.array([bool(row["right"]) for row in rows])
    pattern_N = np.array([str(row["subset"]) for row in rows])
    parts = {name: hit_ratio(right_N, pattern_N == name) for name in dict.fromkeys(pattern_N.tolist())}
    metrics = {f"mmvp_vlm/{name}/accuracy": RatioMetric((part,)) for name, part in parts.items()}
    metrics["mmvp_vlm/mean/accuracy"] = RatioMetric(tuple(parts.values()))
    return ItemResults(keys, version, metrics)


def _ranks(rows: Sequence[Mapping[str, Any]], name: str) -> IntArray:
    return np.array([-1 if row.get(name) is None else row[name] for row in rows], np.int64)


def _numbers(values: Iterable[float]) -> npt.NDArray[np.float64]:
    return np.array(list(values), np.float64)
