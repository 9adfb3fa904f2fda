"""Conversion between YAML or JSON and frozen dataclasses."""

import json
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml

from clips_pipeline.config import (
    ConfigError,
    FormerName,
    PositiveInt,
    digest_mapping,
    from_mapping,
    read_json,
    to_mapping,
)
from clips_pipeline.data.sources.recaption import RecaptionConfig


@dataclass(frozen=True)
class Inner:
    size: PositiveInt = 1
    rate: float = 0.5
    kind: Annotated[Literal["a", "b"], FormerName("sort", values=(("be", "b"),))] = "a"

    def __post_init__(self) -> None:
        if self.size > 8 and self.rate == 0.5:
            raise ConfigError(f"size: {self.size} is too much with rate 0.5")


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    maybe: int | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    shape: str | Inner = "round"
    shards: str | tuple[str, ...] | None = None
    table: dict[str, Inner] = field(default_factory=dict)


def test_files_with_former_keys_are_read(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text('{"inner": {"sort": "b"}, "shape": {"sort": "b"}, "table": {"k": {"sort": "b", "size": 2}}}')
    b = Inner(kind="b")
    assert read_json(Outer, file, "remedy") == Outer(inner=b, shape=b, table={"k": Inner(2, kind="b")})
    file.write_text('{"inner": {"sort": "be"}}')
    assert read_json(Outer, file, "remedy").inner == b
    file.write_text('{"inner": {"sort": "b", "kind": "a"}}')  # both keys: one of them is an error
    with pytest.raises(ConfigError, match=r"\.inner\.sort: this key was renamed"):
        read_json(Outer, file, "remedy")


def test_renaming_keeps_digests() -> None:
    found = digest_mapping(Outer(inner=Inner(kind="b"), table={"k": Inner()}))
    plain = {"size": 1, "rate": 0.5}
    assert found["inner"] == plain | {"sort": "be"}
    assert found["table"] == {"k": plain | {"sort": "a"}}
    assert list(found) == list(to_mapping(Outer()))


def test_round_trip_keeps_every_kind_of_field() -> None:
    mapping = {
        "inner": {"size": 3, "rate": 2.0, "kind": "b"},
        "maybe": 4,
        "pair": [0.25, 0.5],
        "names": ["x", "y"],
        "shape": {"size": 2, "rate": 1.0, "kind": "a"},
        "shards": ["a"],
        "table": {"k": {"size": 8, "rate": 0.5, "kind": "a"}},
    }
    assert to_mapping(from_mapping(Outer, mapping, "o")) == mapping


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"inner": {"sort": "b"}}, "o.inner.sort: this key was renamed; write 'kind'"),
        ({"table": {"k": {"sort": "b"}}}, "o.table.k.sort: this key was renamed; write 'kind'"),
        ({"iner": {}}, "o.iner: unknown key; did you mean 'inner'?"),
        ({"inner": {"size": "3"}}, "o.inner.size: expected a whole number (int), found str ('3')"),
        ({"inner": {"size": True}}, "o.inner.size: expected a whole number (int), found bool (True)"),
        ({"inner": {"rate": "1e-3"}}, "o.inner.rate: '1e-3' is text; write a number with a dot"),
        ({"inner": {"kind": "c"}}, "o.inner.kind: 'c' is not one of 'a', 'b'"),
        ({"inner": None}, "o.inner: expected a mapping"),
        ({"pair": [1.0]}, "o.pair: too few values: [1.0]"),
        ({"pair": [1.0, 2.0, 3.0]}, "o.pair: expected 2 values, found 3"),
        ({"pair": [1.0, "x"]}, "o.pair[1]: 'x' is text"),
        ({"maybe": 1.5}, "o.maybe: expected a whole number (int), found float (1.5)"),
        ({"inner": {"rate": float("nan")}}, "o.inner.rate: nan is not a finite number"),
        ({"inner": {"size": 0}}, "o.inner.size: 0 must be at least 1"),
        ({"inner": {"size": 9}}, "o.inner.size: 9 is too much with rate 0.5"),
        ({"inner": {"kind": date(2026, 1, 2)}}, "o.inner.kind: date (datetime.date(2026, 1, 2)) is neither text"),
        ({"shape": {"sise": 3}}, "o.shape.sise: unknown key; did you mean 'size'?"),
        ({"shape": 3}, "o.shape: expected text (str), found int (3); or expected a mapping of keys to values"),
        ({"shards": ["a", 3]}, "o.shards[1]: expected text (str), found int (3)"),
        ({"names": "xy"}, "o.names: expected a list"),
        ({"table": {"k": {"sise": 1}}}, "o.table.k.sise: unknown key"),
    ],
)
def test_errors_name_the_key_and_the_remedy(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, mapping, "o")
    assert message in str(caught.value)


def test_an_int_is_valid_for_a_float() -> None:
    assert from_mapping(Inner, {"rate": 2}, "i").rate == 2.0


def test_all_errors_are_reported_at_once_without_pydantics_url() -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, {"inner": {"size": 0, "rate": "x"}, "pear": []}, "o")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["o.inner.size", "o.inner.rate", "o.pear"]
    assert "pydantic" not in str(caught.value)


def test_read_json_equals_from_mapping(tmp_path: Path) -> None:
    file = tmp_path / "o.json"
    made = from_mapping(Outer, {"pair": [1, 2], "names": ["é"], "table": {"k": {"size": 2}}}, "o")
    file.write_text(json.dumps(to_mapping(made), ensure_ascii=False), encoding="utf-8")
    assert read_json(Outer, file, "make it") == made
    for content, message in (
        ('{"pear": 1}', rf"^{file}\.pear: unknown key"),
        ('{"inner": {"size": "3"}}', rf"^{file}\.inner\.size: .*'3'"),
        ("[]", "expected a mapping"),
        ("{", rf"^{file}: not valid JSON .*make it$"),
        (b"\xff", "not valid JSON"),
    ):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ConfigError, match=message):
            read_json(Outer, file, "make it")
    with pytest.raises(ConfigError, match=r"gone\.json: no such file; make it"):
        read_json(Outer, tmp_path / "gone.json", "make it")


def test_deep_json_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "inner.json").write_text('{"size":' * 65 + "1" + "}" * 65)
    with pytest.raises(ConfigError, match=r"inner\.json: not valid JSON \(more than 64 levels .*; make it again"):
        read_json(Inner, tmp_path / "inner.json", "make it again")


def test_the_key_on_of_yaml_is_no_truth_value() -> None:
    text = "{train: a, tables: b, on: url}"
    assert yaml.safe_load(text) == {"train": "a", "tables": "b", True: "url"}
    assert from_mapping(RecaptionConfig, yaml.safe_load(text), "source.recaption").on == "url"
    # As `--params prepare.source.recaption.on=sha256` is merged into it.
    for both in ({True: "url", "on": "sha256"}, {"on": "sha256", True: "url"}):
        assert from_mapping(RecaptionConfig, {"train": "a", "tables": "b", **both}, "source.recaption").on == "sha256"
