"""Per-item results as the tables that `evaluate` writes, and back to rows."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.per_item.items import ItemResults, compositionality_items, items_from_rows
from clips_pipeline.evaluation.results import MODEL, SET_VERSION, ItemRow

COMPOSITIONALITY_COLUMNS = ("set", "key", "subset", "image", "right", "text_right", "image_right", SET_VERSION, MODEL)
"""Of the table of SugarCrepe and Winoground, which has rows only where one of them is configured."""

_NEEDED = {"key", "image_to_text_rank", "text_to_image_ranks", "zero_shot_rank", "caption_nats", "caption_tokens"}


def read_items(path: Path, set_name: str | None = None) -> ItemResults:
    """From a CSV file that `evaluate` writes.

    Args:
        path: of the file.
        set_name: `sugarcrepe` or `winoground`, for a file that holds both.

    Raises:
        ConfigError: no such file, it is none of ours, or it holds several sets and not the one that was named.
    """
    try:
        # As they stand there: every column is read by its own rule, and no key is taken for a number or for nothing.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `kedro run --pipelines evaluate` writes per-item results") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise ConfigError(f"{path}: no per-item results ({error})") from None
    try:
        if not _is_compositionality(table):
            return items_from_table(table)
        found = compositionality_items(rows_from_table(table))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if set_name in found or len(found) == 1:
        return found[set_name] if set_name in found else next(iter(found.values()))
    raise ConfigError(f"{path}: holds results on {' and '.join(found) or 'no set'}; name one that it has with --set")


def items_from_table(table: pd.DataFrame) -> ItemResults:
    """From the table of a split's images, as pandas holds it.

    Raises:
        ConfigError: it is none of ours.
    """
    if missing := _NEEDED - set(table.columns):
        raise ConfigError(f"no per-item results: it lacks {', '.join(sorted(missing))}")
    return items_from_rows(rows_from_table(table))


def items_by_set(tables: Mapping[str, pd.DataFrame]) -> dict[str, ItemResults]:
    """From `tables_by_set`.

    Raises:
        ConfigError: a table is none of ours.
    """
    found: dict[str, ItemResults] = {}
    for name, table in tables.items():
        found |= (
            compositionality_items(rows_from_table(table))
            if _is_compositionality(table)
            else {name: items_from_table(table)}
        )
    return found


def tables_by_set(set_name: str, per_item: pd.DataFrame, compositionality: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Both tables of an evaluation, by the set that rows belong to; sets without rows are left out."""
    others = {str(name): rows for name, rows in compositionality.groupby("set")}
    return {set_name: per_item, **others}


def rows_from_table(table: pd.DataFrame) -> list[ItemRow]:
    """The rows of such a table, each as `EvaluationResult` has it.

    Raises:
        ConfigError: a value is none that its column can hold.
    """
    return [_row(row) for row in table.to_dict("records")]


def _is_compositionality(table: pd.DataFrame) -> bool:
    return {"set", "key"} <= set(table.columns)


def _row(row: Mapping[Any, Any]) -> ItemRow:
    return {name: _value(str(name), value, row) for name, value in row.items()}


def _value(name: str, value: Any, row: Mapping[Any, Any]) -> Any:
    # Nothing is None in rows, NaN in a table of floats, and no text in a file.
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    read = _READ.get(name)
    try:
        return value if read is None else read(value)
    except (TypeError, ValueError):
        raise ConfigError(f"no per-item results: {name} of {row.get('key')} is {value!r}") from None


def _whole(value: Any) -> int:
    # A column of whole numbers with gaps is one of floats to pandas.
    return int(float(value))


def _list(value: Any) -> list[int]:
    return [int(one) for one in (json.loads(value) if isinstance(value, str) else value)]


def _flag(value: Any) -> bool:
    if str(value) not in ("True", "False"):
        raise ValueError(value)
    return str(value) == "True"


_READ: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("image_to_text_rank", "long_image_to_text_rank", "zero_shot_rank", "label"), _whole),
    **dict.fromkeys(("caption_tokens", "caption_words", "caption_reference_words"), _whole),
    **dict.fromkeys(("text_to_image_ranks", "long_text_to_image_ranks", "caption_matches", "caption_ngrams"), _list),
    **dict.fromkeys(("caption_nats", "caption_rouge_l", "caption_cider"), float),
    **dict.fromkeys(("teacher_forced", "linear_right", "knn_right", "right", "text_right", "image_right"), _flag),
}
