"""Generator of docs/reference/parameters.md, from the configuration dataclasses: `make docs-parameters`."""

import dataclasses
import inspect
import json
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from clips_pipeline.config import to_mapping
from clips_pipeline.pipelines.parameters import TYPES

HEAD = """# Parameters

Every parameter by group, with its type, range and default; `conf/base/parameters_*.yml` has the same keys.
`make docs-parameters` generates this page from the configuration dataclasses, and a test compares the two.
`kedro run` refuses a value of the wrong type or out of range, and an unknown key, before any work, with one line that
names key, value and remedy.
"""
_NAMES = {int: "int", float: "number", str: "text", bool: "true or false", Any: "any"}
_SIGNS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))


@dataclass(frozen=True)
class Parameter:
    """One key.

    Attributes:
        key: dotted key, starting with the group.
        hint: type hint of the field.
        default: default value; `dataclasses.MISSING` where the key is required.
        meaning: description from the class's docstring.
        group: the dataclass of a nested group, None for a leaf.
    """

    key: str
    hint: Any
    default: Any
    meaning: str
    group: type[Any] | None


def parameters(cls: type[Any], prefix: str) -> Iterator[Parameter]:
    """Yield all keys of a configuration dataclass, depth first, including optional groups."""
    hints, meanings = get_type_hints(cls, include_extras=True), _meanings(cls)
    for field in dataclasses.fields(cls):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        hint, key = hints[field.name], f"{prefix}.{field.name}"
        group = next((part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)), None)
        found = group if isinstance(group, type) else None
        yield Parameter(key, hint, default, meanings.get(field.name, ""), found)
        if found is not None:
            yield from parameters(found, f"{key}.PATH" if get_origin(hint) is dict else key)


def type_text(hint: Any) -> str:
    """Return a type with its range in YAML terms: `int ≥ 1, or null`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [
            f"{sign} {getattr(mark, name)}" for mark in args[1:] for kind, name, sign in _SIGNS if type(mark) is kind
        ]
        return f"{type_text(args[0])} {', '.join(bounds)}"
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in args)
    if origin in (Union, types.UnionType):
        kinds = [type_text(part) for part in args if part is not types.NoneType]
        return ", or ".join([*kinds, "null"] if types.NoneType in args else kinds)
    if origin is tuple:
        if args[1:] == (Ellipsis,):
            return f"list of {type_text(args[0])}"
        same = f"each {type_text(args[0])}" if len(set(args)) == 1 else ", ".join(map(type_text, args))
        return f"list of {len(args)}, {same}"
    if origin is dict:
        return f"mapping of names to {type_text(args[1])}"
    return "group" if dataclasses.is_dataclass(hint) else _NAMES[hint]


def reference() -> str:
    """Return the page."""
    parts = [HEAD]
    for name, cls in TYPES.items():
        parts += [
            f"## {name}\n",
            _summary(cls) + "\n",
            "| key | type | default | meaning |",
            "| --- | --- | --- | --- |",
        ]
        for found in parameters(cls, name):
            cells = (f"`{found.key}`", type_text(found.hint), _default_text(found), found.meaning)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _summary(cls: type[Any]) -> str:
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def _default_text(found: Parameter) -> str:
    value = found.default
    if value is dataclasses.MISSING:
        return "required"
    if found.group is not None and value is not None and not isinstance(value, str):
        return "see below" if dataclasses.is_dataclass(value) else "see conf/base"
    if isinstance(value, dict) and any(dataclasses.is_dataclass(item) for item in value.values()):
        value = {
            key: {k: v for k, v in to_mapping(item).items() if v not in (None, [], False)}
            for key, item in value.items()
        }
    return f"`{json.dumps(value)}`"


def _meanings(cls: type[Any]) -> dict[str, str]:
    """Return the description of each field, from the Attributes sections of the class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = re.split(r"\n(?=\w+:\n)", (base.__doc__ and inspect.cleandoc(base.__doc__)) or "")
        for part in section:
            if part.startswith("Attributes:\n"):
                for line in re.split(r"\n    (?! )", part.removeprefix("Attributes:")):
                    names, _, text = line.partition(":")
                    found |= {name.strip(): " ".join(text.split()) for name in names.split(",")}
    return {name: re.sub(r"\bNone\b", "null", text) for name, text in found.items()}


def main() -> None:
    """Write the page."""
    Path("docs/reference/parameters.md").write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
