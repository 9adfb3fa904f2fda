"""Project settings: `[tool.kedro-dvc]` in pyproject.toml, and `metadata: {dvc: {...}}` of a catalog entry."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kedro_dvc_sync.errors import StageError


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Settings(_Table):
    """`[tool.kedro-dvc]`.

    Attributes:
        stages: registered pipelines that become stages, in the order of the file; by default all except `__default__`
            and sums of other pipelines.
        path_parameters: dotted parameters with a path, or a list of paths, of files outside the catalog. Stages that
            read such a parameter depend on its files.
        formats: a Python file of format versions, `NAME = number`. Datasets name the versions they depend on.
    """

    stages: list[str] = []
    path_parameters: list[str] = []
    formats: str | None = None


class OutOptions(_Table):
    """`metadata: {dvc: {...}}`: DVC's options for a dataset. The names are DVC's, except for the first two.

    Attributes:
        track: False leaves the path out of every stage.
        formats: names of the format versions that the dataset depends on. The stage runs again when one of them is
            raised, not when its source code changes.
        cache: False where git tracks the file.
        persist: True keeps the output when the stage runs again, so that a node can resume it.
        push: False leaves it out of `dvc push`.
        remote: name of its remote.
        desc: a description.
        metrics: True for a file of metrics.
        plots: True for a table to plot.
    """

    track: bool = True
    formats: list[str] = []
    cache: bool = True
    persist: bool = False
    push: bool = True
    remote: str | None = None
    desc: str | None = None
    metrics: bool = False
    plots: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> "OutOptions":
        if self.metrics and self.plots:
            raise ValueError("metrics and plots are both true; choose one")
        return self

    @property
    def written(self) -> dict[str, Any]:
        """The options in `dvc.yaml`: those that differ from DVC's defaults."""
        return self.model_dump(include={"cache", "persist", "push", "remote", "desc"}, exclude_defaults=True)


@dataclass(frozen=True)
class Entry:
    """A catalog entry: its name, its path (as in the catalog) and DVC's options for it."""

    name: str
    filepath: str | None
    options: OutOptions


_TableT = TypeVar("_TableT", bound=_Table)


def _parse(kind: type[_TableT], table: Any, where: str) -> _TableT:
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"{'' if where.endswith(' ') else '.'}{part}" for part in first["loc"][:1])
        if first["type"] == "extra_forbidden":
            what = f"unknown key; known: {', '.join(kind.model_fields)}"
        else:
            found = f", found {first['input']!r}" if first["loc"] or not isinstance(table, Mapping) else ""
            what = first["msg"].removeprefix("Value error, ") + found
        raise StageError(f"{where}{key}: {what}") from None


def read_settings(root: Path) -> Settings:
    """Return the settings in `root / "pyproject.toml"`.

    Raises:
        StageError: an unknown key, or a value of the wrong type.
    """
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {}).get("kedro-dvc", {})
    return _parse(Settings, table, "pyproject.toml, [tool.kedro-dvc] ")


def read_entry(name: str, config: Mapping[str, Any]) -> Entry:
    """Return the name, path and DVC options of a catalog entry.

    Raises:
        StageError: an unknown or invalid option, or a dataset that Kedro versions too.
    """
    options = _parse(OutOptions, (config.get("metadata") or {}).get("dvc", {}), f"catalog entry {name}, metadata.dvc")
    # Wrappers (partitions, caches, artifacts) have the path in the wrapped dataset.
    inner = config.get("dataset")
    places = [config, inner] if isinstance(inner, Mapping) else [config]
    found = [place[key] for place in places for key in ("filepath", "path") if isinstance(place.get(key), str)]
    filepath = found[0] if found and options.track else None
    if filepath is not None and any(place.get("versioned") for place in places):
        raise StageError(
            f"catalog entry {name}: `versioned: true` stores all versions in the folder itself, which DVC would delete; "
            "remove it, or set `metadata: {dvc: {track: false}}`"
        )
    return Entry(name, filepath, options)
