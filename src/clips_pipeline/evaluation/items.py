"""Per-image results, from which every metric can be computed again, for all images or for a sample of them.

A metric is a mean of ratios: what each image adds to the numerator and to the denominator. Recall at 1 from image to text, for
instance, counts images found over images asked; `mean_recall@1` is the mean of two such ratios.
Legend of suffixes: N images.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.results import SET_VERSION, ItemRow
from clips_pipeline.evaluation.retrieval import RECALL_AT

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]
Ratio = tuple[Array, Array]
"""Numerator and denominator of each image, (N,) both."""

_ACCURACY_AT = (1, 5)


@dataclass(frozen=True)
class Items:
    """The results of one model on one set.

    Attributes:
        keys: of the images.
        set_version: of the set; empty where it is not known.
        ratios: by the end of the metric's key, such as `mean_recall@1`: the metric is the mean of these.
    """

    keys: tuple[str, ...]
    set_version: str
    ratios: dict[str, tuple[Ratio, ...]]

    def ratios_of(self, metric: str) -> tuple[Ratio, ...]:
        """Those of a metric by its whole key.

        Raises:
            ConfigError: it cannot be computed from these items.
        """
        kind, name = metric.split("/")[0], metric.split("/")[-1]
        found = self.ratios.get(f"{kind}/{name}")
        if found is None:
            raise ConfigError(
                f"{metric} cannot be computed from per-item results, which allow {', '.join(self.names())}"
            )
        return found

    def names(self) -> tuple[str, ...]:
        """What can be computed, as kind and last part of the key."""
        return tuple(self.ratios)


def higher_is_better(metric: str) -> bool:
    """Of a metric by its key; only a loss is better when it is lower."""
    return not metric.endswith("loss")


def items_of(rows: Iterable[Mapping[str, Any]]) -> Items:
    """From rows as `EvaluationResult.per_item` has them.

    Raises:
        ConfigError: no row, a key that stands twice, or rows of several sets.
    """
    rows = list(rows)
    keys = tuple(str(row["key"]) for row in rows)
    versions = {str(row.get(SET_VERSION) or "") for row in rows}
    if not rows or len(set(keys)) < len(keys) or len(versions) > 1:
        raise ConfigError(
            f"per-item results: {len(rows)} rows, {len(set(keys))} different keys, {len(versions)} set versions; expected one "
            "row per image, all of one set"
        )
    image = np.array([-1 if row["image_to_text_rank"] is None else row["image_to_text_rank"] for row in rows], np.int64)
    shot = np.array([-1 if row["zero_shot_rank"] is None else row["zero_shot_rank"] for row in rows], np.int64)
    ratios: dict[str, tuple[Ratio, ...]] = {}
    if (image >= 0).any():
        texts = [np.array(row["text_to_image_ranks"], np.int64) for row in rows]
        asked = np.array([len(ranks) for ranks in texts], np.float64)
        to_text = {k: (_count((image >= 0) & (image < k)), _count(image >= 0)) for k in RECALL_AT}
        to_image = {
            k: (np.array([np.count_nonzero(ranks < k) for ranks in texts], np.float64), asked) for k in RECALL_AT
        }
        ratios |= {f"retrieval/image_to_text_recall@{k}": (to_text[k],) for k in RECALL_AT}
        ratios |= {f"retrieval/text_to_image_recall@{k}": (to_image[k],) for k in RECALL_AT}
        ratios["retrieval/mean_recall@1"] = (to_text[1], to_image[1])
    if (shot >= 0).any():
        for k in _ACCURACY_AT:
            ratios[f"zero_shot/accuracy@{k}"] = ((_count((shot >= 0) & (shot < k)), _count(shot >= 0)),)
    tokens = np.array([row["caption_tokens"] for row in rows], np.float64)
    if tokens.any():
        ratios["caption/loss"] = ((np.array([row["caption_nats"] for row in rows], np.float64), tokens),)
    return Items(keys, versions.pop(), ratios)


def read_items(path: Path) -> Items:
    """From the CSV file that `evaluate` writes.

    Raises:
        ConfigError: no such file, or it is none of ours.
    """
    import pandas as pd

    try:
        table = pd.read_csv(
            path,
            dtype={"key": str, SET_VERSION: str},
            keep_default_na=False,
            na_values={name: [""] for name in ("image_to_text_rank", "zero_shot_rank", "label")},
        )
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `kedro run --pipelines evaluate` writes per-item results") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise ConfigError(f"{path}: no per-item results ({error})") from None
    try:
        return items_of_table(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def items_of_table(table: "pd.DataFrame") -> Items:
    """From the table that `evaluate` writes, as pandas holds it.

    Raises:
        ConfigError: it is none of ours.
    """
    needed = {"key", "image_to_text_rank", "text_to_image_ranks", "zero_shot_rank", "caption_nats", "caption_tokens"}
    if missing := needed - set(table.columns):
        raise ConfigError(f"no per-item results: it lacks {', '.join(sorted(missing))}")
    return items_of(rows_of_table(table))


def rows_of_table(table: "pd.DataFrame") -> list[ItemRow]:
    """The rows of such a table, each as `EvaluationResult.per_item` has it."""
    return [_row(row) for row in table.to_dict("records")]


def _row(row: Mapping[Any, Any]) -> ItemRow:
    ranks = row["text_to_image_ranks"]
    whole = {
        name: None if row[name] != row[name] else int(row[name]) for name in ("image_to_text_rank", "zero_shot_rank")
    }
    return {**row, **whole, "text_to_image_ranks": json.loads(ranks) if isinstance(ranks, str) else ranks}


def _count(hits: npt.NDArray[np.bool_]) -> Array:
    return hits.astype(np.float64)
