"""From plain mappings (YAML, JSON) to frozen dataclasses, and back. Unknown keys are errors.

This is the border of the program: inside, configuration is typed and immutable. Only the standard library is used here,
so every layer may import this file.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration value that cannot be used. The message names the key and the remedy."""


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from `mapping`, recursively.

    Args:
        cls: a dataclass; its fields may be scalars, `Literal`, optionals, unions, tuples, string-keyed dicts or dataclasses.
        mapping: what YAML or JSON gave.
        where: the dotted path of `mapping` in the configuration, used in messages.

    Raises:
        ConfigError: an unknown or missing key, a value of another type, or a value that `cls.__post_init__` refuses.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(
            f"{where}: expected a mapping of keys to values, found {type(mapping).__name__} ({mapping!r})"
        )
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls)) if f.init}
    for key in mapping:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            remedy = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(sorted(fields))}"
            raise ConfigError(f"{where}.{key}: unknown key; {remedy}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}.{name}: missing; add the key")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def to_mapping(config: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`: plain dicts, lists and scalars, ready for JSON or YAML."""
    return cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to one level, keys joined by dots; an empty mapping stays as it is."""
    leaves: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Literal:
        # `True == 1` in Python, so membership alone would let a bool pass for an int choice.
        if not any(value == choice and type(value) is type(choice) for choice in args):
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(repr(choice) for choice in args)}")
        return value
    if origin in (types.UnionType, typing.Union):
        return _convert_union(args, value, where)
    if dataclasses.is_dataclass(hint):
        return from_mapping(cast(type[Any], hint), value, where)
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a mapping, found {value!r}")
        return {str(key): _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    return _convert_scalar(hint, value, where)


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None:
        if types.NoneType in args:
            return None
        raise ConfigError(f"{where}: null is not allowed here")
    options = [arg for arg in args if arg is not types.NoneType]
    errors = []
    for option in options:
        try:
            return _convert(option, value, where)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError(errors[0])


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{where}: expected a list, found {value!r}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(args) != len(value):
        raise ConfigError(f"{where}: expected {len(args)} values, found {len(value)}")
    return tuple(_convert(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True)))


def _convert_scalar(hint: type[Any], value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    # YAML reads `1e-3` (no dot) as a string; saying so beats "expected a number".
    if hint is float and isinstance(value, str):
        raise ConfigError(f"{where}: {value!r} is text; write a number with a dot, such as 1.0e-3")
    if type(value) is not hint:
        raise ConfigError(f"{where}: expected {hint.__name__}, found {type(value).__name__} ({value!r})")
    return value
