"""Reading of YAML files as Kedro and DVC read them, and access to nested values by dotted path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def read_yaml(file: Path) -> Any:
    """Return the content of a YAML file; None for an empty one.

    Uses YAML 1.2 of ruamel.yaml, because PyYAML reads `1e-8`, which DVC writes into its lock, as text.

    Raises:
        YAMLError: the file is not YAML.
    """
    return YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))


def has_path(tree: Any, path: str) -> bool:
    """Return whether the nested mapping has the dotted path."""
    try:
        value_at(tree, path)
    except KeyError:
        return False
    return True


def value_at(tree: Any, path: str) -> Any:
    """Return the value at a dotted path.

    Raises:
        KeyError: the path does not exist.
    """
    for part in path.split("."):
        if not isinstance(tree, Mapping):
            raise KeyError(path)
        tree = tree[part]
    return tree


def set_value(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path in nested dicts; create missing ones."""
    *parents, last = path.split(".")
    for part in parents:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[last] = value
