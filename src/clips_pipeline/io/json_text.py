"""JSON documents of others: their depth is checked before they are parsed, since recursion cannot follow any depth."""

import json
import re
from typing import Any

MAX_DEPTH = 64
"""Levels of lists and objects in a JSON file of this project; its own have fewer than ten."""

# Texts too, because they may hold brackets. Possessive, so that an open text takes linear time.
_BRACKETS_AND_TEXTS = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def json_depth(text: str) -> int:
    """Return the number of levels of lists and objects in a JSON document."""
    depth = deepest = 0
    for part in _BRACKETS_AND_TEXTS.findall(text):
        depth += (part in "[{") - (part in "]}")
        deepest = max(deepest, depth)
    return deepest


def parse_json(content: str | bytes) -> Any:
    """Return the value of a JSON document that others may have written.

    Raises:
        ValueError: it is not JSON, or has more than `MAX_DEPTH` levels.
    """
    text = content if isinstance(content, str) else content.decode(json.detect_encoding(content), "surrogatepass")
    if json_depth(text) > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} levels of lists and objects")
    return json.loads(text)
