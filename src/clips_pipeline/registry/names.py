"""Names as MLflow takes them."""

import re
from collections.abc import Mapping
from typing import Any

_LONGEST_KEY = 250


def mlflow_key(name: str) -> str:
    """A name as MLflow accepts it in metrics, parameters and tags: `recall@1` becomes `recall_at_1`, the rest `_`."""
    return re.sub(r"[^/\w.\- :]", "_", name.replace("@", "_at_"))[:_LONGEST_KEY]


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to one level, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
