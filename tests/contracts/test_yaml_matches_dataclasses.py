"""`conf/base` equals the dataclasses' defaults, key by key; every environment is valid."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from clips_pipeline.config import to_mapping
from clips_pipeline.pipelines.parameters import TYPES, typed


def base(repository: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((repository / "conf" / "base" / f"parameters_{name}.yml").read_text())
    assert set(found) == {name}
    return dict(found[name])


def soft_merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    result = dict(lower)
    for key, value in upper.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = soft_merge(result[key], value) if both else value
    return result


@pytest.mark.parametrize("name", TYPES)
def test_base_parameters_equal_the_defaults_with_every_key(repository: Path, name: str) -> None:
    parameters = base(repository, name)
    assert typed(name, parameters) == TYPES[name]()
    named, known = dict(parameters), to_mapping(typed(name, parameters))
    if name == "search":
        # A dimension has only the keys of its kind; the line above has compared them.
        assert set(named.pop("space")) == set(known.pop("space"))
    assert known == named


@pytest.mark.parametrize(
    "environment", ["smoke", "photos", "suite", "s16", "b16", "l16", "l14", "h14", "l14-336", "h14-336"]
)
def test_environments_contain_only_valid_differences(repository: Path, environment: str) -> None:
    overlay = yaml.safe_load((repository / "conf" / environment / "parameters.yml").read_text())
    assert set(overlay) <= set(TYPES)
    for name in TYPES:
        lower = base(repository, name)
        merged = soft_merge(lower, overlay.get(name, {}))
        typed(name, merged)
        assert name not in overlay or merged != lower
