"""YAML files, read as Kedro and DVC read them, and nested values by dotted path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


def read_yaml(file: Path) -> Any:
    """The content of a YAML file; None of an empty one.

    By the YAML 1.2 of ruamel.yaml: PyYAML takes `1e-8`, which DVC writes into its lock, for a text.

    Raises:
        YAMLError: it is none.
    """
    return YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))


def has_path(tree: Any, path: str) -> bool:
    """Whether the nested mapping has the dotted path."""
    try:
        value_at(tree, path)
    except KeyError:
        return False
    return True


def value_at(tree: Any, path: str) -> Any:
    """The value of a dotted path.

    Raises:
        KeyError: it is not there.
    """
    for part in path.split("."):
        if not isinstance(tree, Mapping):
            raise KeyError(path)
        tree = tree[part]
    return tree


def set_value(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path in nested dicts, making those that are missing."""
    *parents, last = path.split(".")
    for part in parents:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[last] = value
