"""Tables of per-item results that `evaluate` writes: reading, and conversion to rows."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.per_item.items import ItemResults, compositionality_items, items_from_rows
from clips_pipeline.evaluation.results import MODEL, QUESTION_COLUMN, SET_VERSION, ItemRow

COMPOSITIONALITY_COLUMNS = ("set", "key", "subset", "image", "right", "text_right", "image_right", SET_VERSION, MODEL)
"""Columns of the table of SugarCrepe and Winoground, which is empty if neither is configured."""

# Spreadsheets run a cell that begins with one of these, even in a CSV file.
_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r\n]")

_NEEDED = {"key", "image_to_text_rank", "text_to_image_ranks", "zero_shot_rank", "caption_nats", "caption_tokens"}


def spreadsheet_safe(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with `'` before each text that a spreadsheet would run as a formula; `rows_from_table` removes it."""

    def escape(value: Any) -> Any:
        risky = isinstance(value, str) and (_FORMULA.match(value) or _ESCAPED.match(value))
        return f"'{value}" if risky else value

    # Whole columns, so that those without text keep their type.
    changed = {
        name: table[name].map(escape) for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])
    }
    return table.assign(**changed)


def read_items(path: Path, set_name: str | None = None) -> ItemResults:
    """Read a CSV file that `evaluate` wrote.

    Args:
        path: path of the file.
        set_name: `sugarcrepe` or `winoground`, for a file with both.

    Raises:
        ConfigError: the file does not exist, has another format, or has several sets but not the one requested.
    """
    try:
        # Read all values as text, so that pandas does not turn keys into numbers or NaN; `_value` converts each column.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; run `kedro run --pipelines evaluate`, which writes per-item results"
        ) from None
    except (ValueError, pd.errors.ParserError) as error:
        raise ConfigError(
            f"{path}: not a table of per-item results ({error}); give a file that `evaluate` wrote"
        ) from None
    try:
        if not _is_compositionality(table):
            return items_from_table(table)
        found = compositionality_items(rows_from_table(table))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if set_name in found or len(found) == 1:
        return found[set_name] if set_name in found else next(iter(found.values()))
    raise ConfigError(f"{path}: has results on {' and '.join(found) or 'no set'}; select one of them with --set")


def items_from_table(table: pd.DataFrame) -> ItemResults:
    """Convert the table of a split's images.

    Raises:
        ConfigError: the table has another format.
    """
    if missing := _NEEDED - set(table.columns):
        raise ConfigError(
            f"not a table of per-item results: columns missing: {', '.join(sorted(missing))}; run `evaluate` again"
        )
    return items_from_rows(rows_from_table(table))


def items_by_set(tables: Mapping[str, pd.DataFrame]) -> dict[str, ItemResults]:
    """Convert the tables of `tables_by_set`.

    Raises:
        ConfigError: a table has another format.
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
    """Return the rows of both tables of an evaluation by set, without sets that have no rows."""
    others = {str(name): rows for name, rows in compositionality.groupby("set")}
    return {set_name: per_item, **others}


def rows_from_table(table: pd.DataFrame) -> list[ItemRow]:
    """Return the rows of a table as in `EvaluationResult`.

    Raises:
        ConfigError: a value is invalid for its column.
    """
    return [_row(row) for row in table.to_dict("records")]


def _is_compositionality(table: pd.DataFrame) -> bool:
    return {"set", "key"} <= set(table.columns)


def _row(row: Mapping[Any, Any]) -> ItemRow:
    return {name: _value(str(name), value, row) for name, value in row.items()}


def _value(name: str, value: Any, row: Mapping[Any, Any]) -> Any:
    # A missing value is None in rows, NaN in a table of floats, and an empty string in a file.
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    read = _list if name.startswith(QUESTION_COLUMN) else _READ.get(name)
    if read is None:
        return value[1:] if isinstance(value, str) and _ESCAPED.match(value) else value
    try:
        return read(value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"not a table of per-item results: {name} of {row.get('key')} is {value!r}; run `evaluate` again"
        ) from None


def _integer(value: Any) -> int:
    # Pandas stores a column of integers with missing values as floats.
    return int(float(value))


def _list(value: Any) -> list[int]:
    return [int(one) for one in (json.loads(value) if isinstance(value, str) else value)]


def _flag(value: Any) -> bool:
    if str(value) not in ("True", "False"):
        raise ValueError(value)
    return str(value) == "True"


_READ: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("image_to_text_rank", "long_image_to_text_rank", "zero_shot_rank", "label"), _integer),
    **dict.fromkeys(("caption_tokens", "caption_words", "caption_reference_words"), _integer),
    **dict.fromkeys(("text_to_image_ranks", "long_text_to_image_ranks", "caption_matches", "caption_ngrams"), _list),
    **dict.fromkeys(("caption_nats", "caption_rouge_l", "caption_cider"), float),
    **dict.fromkeys(("teacher_forced", "linear_right", "knn_right", "right", "text_right", "image_right"), _flag),
    **dict.fromkeys(("image_to_text_right", "text_to_text_right"), _flag),
}
