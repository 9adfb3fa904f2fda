"""Nested values by dotted path, and one value changed in a YAML text with all the rest left as it is."""

from collections.abc import Mapping
from typing import Any

import yaml


def has(tree: Any, path: str) -> bool:
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


def last_line(node: yaml.Node) -> int:
    """The last line that belongs to a node: not the comments and empty lines up to whatever comes next."""
    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        return last_line(last[1] if isinstance(last, tuple) else last)
    end, start = node.end_mark, node.start_mark
    return int(end.line if end.column or end.line == start.line else end.line - 1)


def text_with_value(text: str, path: str, value: Any) -> str:
    """The YAML `text` with the value at the dotted `path` replaced, or added in the mapping that is to hold it.

    What is replaced stands on one line afterwards, in flow style; comments elsewhere stay.
    """
    parts = path.split(".")
    content = yaml.safe_load(text) or {}
    set_value(content, path, value)
    key: yaml.Node | None = None
    node: Any = yaml.compose(text, yaml.SafeLoader)
    depth = 0
    while depth < len(parts) and isinstance(node, yaml.MappingNode):
        pair = next((pair for pair in node.value if pair[0].value == parts[depth]), None)
        if pair is None:
            break
        (key, node), depth = pair, depth + 1
    lines = text.splitlines()
    if key is None:
        # Not even the first part is there.
        if isinstance(node, yaml.MappingNode) and node.flow_style:
            return f"{_flow(content)}\n"
        return "\n".join([*lines, f"{parts[0]}: {_flow(content[parts[0]])}", ""])
    written = f"{key.value}: {_flow(value_at(content, '.'.join(parts[:depth])))}"
    start, end = key.start_mark, node.end_mark
    in_one_line = isinstance(node, yaml.ScalarNode) or node.flow_style
    last = end.line if in_one_line and end.column else last_line(node)
    behind = lines[last][end.column :] if in_one_line and end.line == last else ""
    lines[start.line : last + 1] = [lines[start.line][: start.column] + written + behind]
    return "\n".join([*lines, ""])


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()
