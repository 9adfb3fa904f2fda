"""The border between YAML and frozen dataclasses."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from clips_pipeline.config import ConfigError, from_mapping, to_mapping


@dataclass(frozen=True)
class Inner:
    size: int = 1
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    maybe: int | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    table: dict[str, Inner] = field(default_factory=dict)


def test_round_trip_keeps_every_kind_of_field() -> None:
    mapping = {
        "inner": {"size": 3, "rate": 2.0, "kind": "b"},
        "maybe": 4,
        "pair": [0.25, 0.5],
        "names": ["x", "y"],
        "table": {"k": {"size": 9, "rate": 0.5, "kind": "a"}},
    }
    assert to_mapping(from_mapping(Outer, mapping, "o")) == mapping


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"iner": {}}, "o.iner: unknown key; did you mean 'inner'?"),
        ({"inner": {"size": "3"}}, "o.inner.size: expected int, found str"),
        ({"inner": {"size": True}}, "o.inner.size: expected int, found bool"),
        ({"inner": {"rate": "1e-3"}}, "o.inner.rate: '1e-3' is text; write a number with a dot"),
        ({"inner": {"kind": "c"}}, "o.inner.kind: 'c' is not one of 'a', 'b'"),
        ({"inner": None}, "o.inner: expected a mapping"),
        ({"pair": [1.0]}, "o.pair: expected 2 values, found 1"),
        ({"names": "xy"}, "o.names: expected a list"),
        ({"table": {"k": {"sise": 1}}}, "o.table.k.sise: unknown key"),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, mapping, "o")
    assert message in str(caught.value)


def test_an_int_is_welcome_where_a_float_is_asked() -> None:
    assert from_mapping(Inner, {"rate": 2}, "i").rate == 2.0
