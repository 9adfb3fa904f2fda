"""Conversion of plain mappings (YAML, JSON) to frozen dataclasses and back; all configuration is validated here.

Dataclasses define ranges in their types (`Annotated[int, Ge(1)]`, or the names below). Pydantic checks them strictly:
text does not become a number, a bool is not an int, and unknown keys are errors. `__post_init__` only checks rules
between fields.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Hashable, Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from clips_pipeline.io.json_text import parse_json
from clips_pipeline.io.redact import redact

T = TypeVar("T")

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
Fraction = Annotated[float, Ge(0), Le(1)]
"""From 0 to 1, both included."""


@dataclasses.dataclass(frozen=True)
class FormerName:
    """The former key of a renamed field: `max_skipped_fraction: Annotated[Fraction, FormerName("max_skip_share")]`.

    A configuration with the old key gets an error that names the new one. Files of earlier versions are read
    (`with_current_names`), and digests do not change (`digest_mapping`).

    Attributes:
        key: the former key.
        values: pairs of former and current values that were renamed together with the key.
    """

    key: str
    values: tuple[tuple[str, str], ...] = ()

    def current_value(self, value: Any) -> Any:
        """Return the current name of a value that was written under the former key."""
        return next((current for former, current in self.values if value == former), value)

    def former_value(self, value: Any) -> Any:
        """Return the inverse of `current_value`."""
        return next((former for former, current in self.values if value == current), value)


@dataclasses.dataclass(frozen=True)
class LaterField:
    """Marks a field that was added after others: `captioners: Annotated[tuple[str, ...] | None, LaterField()] = None`.

    Its default gives the result of the time before, so digests leave it out (`digest_mapping`).
    """


_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
_EXPECTED = {
    "string_type": "text (str)",
    "int_type": "a whole number (int)",
    "int_from_float": "a whole number (int)",
    "float_type": "a number (float)",
    "bool_type": "true or false (bool)",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
    "none_required": "null",
}


class ConfigError(ValueError):
    """An invalid configuration value. The message names the key and the remedy, and shows no secret.

    Args:
        message: text that may contain values; it is redacted.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from `mapping`, recursively.

    Args:
        cls: a dataclass of scalars, `Literal`, optionals, unions, tuples, string-keyed dicts and dataclasses.
        mapping: content of a YAML or JSON file.
        where: dotted path of `mapping` in the configuration, for messages.

    Raises:
        ConfigError: unknown or missing keys, values of the wrong type or out of range, or an error from
            `__post_init__`. The message lists all of them, one per line.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where}: expected a mapping of keys to values, found {_describe(mapping)}")
    plain = _check_values(mapping, where)
    try:
        # Through JSON: in strict mode pydantic accepts neither Python lists for tuples nor dicts for dataclasses.
        found: T = _adapter(cast(Hashable, cls)).validate_json(json.dumps(plain), strict=True, extra="forbid")
        return found
    except ValidationError as error:
        raise ConfigError("\n".join(_messages(cls, error, plain, where))) from None


def read_json(cls: type[T], file: Path, remedy: str) -> T:
    """Read a dataclass from a JSON file of `to_mapping`; ten times as fast as `from_mapping`.

    Renamed keys are also read under their former names.

    Args:
        cls: as for `from_mapping`.
        file: a UTF-8 file.
        remedy: end of the message where the file is missing or is not JSON.

    Raises:
        ConfigError: the file is missing or is not JSON, or as `from_mapping`.
    """
    return from_json(cls, read_content(file, remedy), file, remedy)


def read_content(file: Path, remedy: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        ConfigError: the file is missing; the message ends with `remedy`.
    """
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; {remedy}") from None


def from_json(cls: type[T], content: bytes, file: Path, remedy: str) -> T:
    """Return a dataclass from the content of a JSON file; arguments and errors are those of `read_json`."""
    try:
        found: T = _adapter(cast(Hashable, cls)).validate_json(content, strict=True, extra="forbid")
        return found
    except ValidationError:
        pass  # `from_mapping` below reports the error
    try:
        mapping = parse_json(content)
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error}); {remedy}") from None
    return from_mapping(cls, with_current_names(cls, mapping), str(file))


def with_current_names(hint: Any, value: Any) -> Any:
    """Return `value`, read from a file of an earlier version, with renamed keys under their current names.

    Args:
        hint: the type of `value`.
        value: content of the file.
    """
    if isinstance(value, dict) and isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        former = {note.key: (name, note) for name, hint in hints.items() if (note := _former_name(hint)) is not None}
        renamed: dict[str, Any] = {}
        for key, item in value.items():
            name, note = former.get(key, (key, None))
            if note is None or name in value:
                renamed[key] = item
            else:
                renamed[name] = note.current_value(item)
        return {key: with_current_names(hints.get(key), item) for key, item in renamed.items()}
    if isinstance(value, dict) and get_origin(hint) is dict:
        return {key: with_current_names(get_args(hint)[1], item) for key, item in value.items()}
    if isinstance(value, list | dict):
        for argument in get_args(hint):
            value = (
                [with_current_names(argument, item) for item in value]
                if isinstance(value, list)
                else with_current_names(argument, value)
            )
    return value


def to_mapping(config: Any) -> dict[str, Any]:
    """Return the inverse of `from_mapping`: plain dicts, lists and scalars, ready for JSON or YAML."""
    return cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def digest_mapping(config: Any) -> dict[str, Any]:
    """Return the same as `to_mapping`, but so that neither a renaming nor a new field with its default changes a digest.

    Renamed fields stand under their former names, and a `LaterField` with its default is left out.
    """
    hints = get_type_hints(type(config), include_extras=True)
    fields = {field.name: (getattr(config, field.name), _default(field)) for field in dataclasses.fields(config)}
    digested: dict[str, Any] = {}
    for name, (value, default) in fields.items():
        if value == default and any(isinstance(extra, LaterField) for extra in get_args(hints[name])):
            continue
        former = _former_name(hints[name])
        digested[former.key if former else name] = _digest_value(former.former_value(value) if former else value)
    return digested


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one level, with keys joined by dots; empty mappings stay."""
    leaves: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _former_name(hint: Any) -> FormerName | None:
    return next((extra for extra in get_args(hint) if isinstance(extra, FormerName)), None)


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _digest_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return digest_mapping(value)
    if isinstance(value, Mapping):
        return {key: _digest_value(item) for key, item in value.items()}
    return [_digest_value(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def _adapter(cls: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, cls))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _check_values(value: Any, where: str) -> Any:
    """Return `value` as `_plain` does, and refuse what JSON cannot represent: YAML dates and numbers that are not finite."""
    if isinstance(value, Mapping):
        # In YAML 1.1, which OmegaConf reads, the key `on` of a join is the truth value.
        # An "on" beside it is that of the command line, which goes before.
        named = {
            "on" if key is True else str(key): item
            for key, item in value.items()
            if key is not True or "on" not in value
        }
        return {key: _check_values(item, f"{where}.{key}") for key, item in named.items()}
    if isinstance(value, list | tuple):
        return [_check_values(item, f"{where}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {value} is not a finite number; write a finite one")
    if value is not None and not isinstance(value, str | int | float):
        raise ConfigError(f"{where}: {_describe(value)} is neither text nor a number; put it in quotes if it is text")
    return value


def _messages(cls: type[Any], error: ValidationError, mapping: dict[str, Any], where: str) -> list[str]:
    found: dict[str, list[str]] = {}
    unions: dict[str, int] = {}
    details = error.errors(include_url=False)
    # For a union, report the branch that matched the value furthest.
    placed = [(*_locate(detail, mapping, where), detail) for detail in details]
    for _, union, depth, _ in placed:
        if union is not None:
            unions[union] = max(unions.get(union, 0), depth)
    for key, union, depth, detail in placed:
        if union is None or depth == unions[union]:
            found.setdefault(key, []).append(_message(cls, detail))
    lines = []
    for key, reasons in found.items():
        first, *others = dict.fromkeys(reasons)
        # The message of a rule between fields begins with its key.
        separator = "" if first.startswith(".") else ": "
        lines.append(key + separator + "; or ".join([first, *others]))
    return lines


def _locate(detail: ErrorDetails, mapping: dict[str, Any], where: str) -> tuple[str, str | None, int]:
    """Return the dotted key of an error, that of the innermost union around it, and the number of keys below that union."""
    value: Any = mapping
    key, union, depth = where, None, 0
    for number, part in enumerate(detail["loc"]):
        last = number == len(detail["loc"]) - 1
        if isinstance(value, dict) and (part in value or (last and detail["type"] == "missing")):
            key, value, depth = f"{key}.{part}", value.get(part), depth + 1
        elif isinstance(value, list) and isinstance(part, int):
            if part < len(value):
                key, value, depth = f"{key}[{part}]", value[part], depth + 1
        elif part != "[key]":
            union, depth = key, 0
    return key, union, depth


def _message(cls: type[Any], detail: ErrorDetails) -> str:
    """Return what is wrong, with value and remedy; a rule between fields that names its key is returned as `.key: …`."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "value_error":
        text = str(context["error"])
        name = text.partition(":")[0]
        return f".{text}" if ":" in text and name.replace(".", "").replace("_", "").isalnum() else text
    if kind in ("unexpected_keyword_argument", "unexpected_property"):
        key, known = str(detail["loc"][-1]), _fields_at(cls, detail["loc"][:-1])
        renamed = next(
            (name for name, hint in known.items() if (former := _former_name(hint)) and former.key == key), None
        )
        if renamed is not None:
            return f"this key was renamed; write '{renamed}'"
        moved = [f"{group}.{key}" for group, hint in known.items() if key in _fields_at(hint, ())]
        close = moved or difflib.get_close_matches(key, known, n=1)
        return "unknown key; " + (f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(sorted(known))}")
    if kind == "missing":
        return f"too few values: {value!r}" if isinstance(value, list) else "missing; add the key"
    if kind == "float_type" and isinstance(value, str):
        # YAML reads `1e-3` (no dot) as a string.
        return f"{value!r} is text; write a number with a dot, such as 1.0e-3"
    if kind == "literal_error":
        return f"{value!r} is not one of {context['expected'].replace(' or ', ', ')}"
    if kind == "too_long":
        return f"expected {context['max_length']} values, found {context['actual_length']}"
    for bound, words in _BOUNDS.items():
        if bound in context:
            return f"{value!r} must be {words} {context[bound]}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, found {_describe(value)}"
    return f"{detail['msg']}, found {_describe(value)}"


def _describe(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} ({value!r})"


def _fields_at(hint: Any, loc: tuple[int | str, ...]) -> dict[str, Any]:
    """Return names and types of the fields of the dataclass at `loc` below the type `hint`."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        if not loc:
            return {field.name: hints[field.name] for field in dataclasses.fields(hint) if field.init}
        return _fields_at(hints.get(str(loc[0])), loc[1:])
    # For a list or dict the next part of `loc` is an index or a key, for a union the name of its branch.
    rest = loc[1:] if get_origin(hint) not in (None, Annotated) and not _is_optional(hint) else loc
    return next((found for argument in get_args(hint) if (found := _fields_at(argument, rest))), {})


def _is_optional(hint: Any) -> bool:
    return isinstance(hint, UnionType) and len(get_args(hint)) == 2 and NoneType in get_args(hint)
