"""What a project may set: `[tool.kedro-dvc]` in pyproject.toml, and `metadata: {dvc: {...}}` of a catalog entry."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kedro_dvc_sync.errors import StageError


@dataclass(frozen=True)
class Settings:
    """`[tool.kedro-dvc]`.

    Attributes:
        stages: registered pipelines that become stages, in the order of the file; by default all but `__default__` and those
            that are made of others.
        path_parameters: dotted parameters that hold a path, or a list of paths, of files outside the catalog. Stages that read
            such a parameter depend on its files.
    """

    stages: tuple[str, ...] = ()
    path_parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class OutOptions:
    """`metadata: {dvc: {...}}`: what DVC is to know of a dataset. The names are DVC's, but for `track`.

    Attributes:
        track: False keeps the path out of every stage.
        cache: False where git keeps the file.
        persist: True keeps what is there when the stage runs again, so that a node can go on with it.
        push: False keeps it out of `dvc push`.
        remote: the remote it goes to.
        desc: a line for people.
        metrics: True for a file of metrics.
        plots: True for a table to plot.
    """

    track: bool = True
    cache: bool = True
    persist: bool = False
    push: bool = True
    remote: str | None = None
    desc: str | None = None
    metrics: bool = False
    plots: bool = False

    def __post_init__(self) -> None:
        if self.metrics and self.plots:
            raise StageError("choose one of metrics and plots")

    @property
    def written(self) -> dict[str, Any]:
        """What stands in `dvc.yaml`: the options that differ from DVC's defaults."""
        names = ("cache", "persist", "push", "remote", "desc")
        default = OutOptions()
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(default, name)}


@dataclass(frozen=True)
class Entry:
    """A catalog entry: its name, its type's dotted path, its path (as in the catalog) and DVC's options for it."""

    name: str
    type: str
    filepath: str | None
    options: OutOptions = field(default_factory=OutOptions)


def read_settings(root: Path) -> Settings:
    """The settings in `root / "pyproject.toml"`.

    Raises:
        StageError: an unknown key, or no list of texts.
    """
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {}).get("kedro-dvc", {})
    known = [item.name for item in fields(Settings)]
    for key, value in table.items():
        where = f"pyproject.toml, [tool.kedro-dvc] {key}"
        if key not in known:
            raise StageError(f"{where}: unknown key; known: {', '.join(known)}")
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise StageError(f"{where}: a list of texts is needed, found {value!r}")
    return Settings(**{key: tuple(value) for key, value in table.items()})


def read_entry(name: str, config: Mapping[str, Any]) -> Entry:
    """The parts of a catalog entry that matter here.

    Raises:
        StageError: an unknown or wrong option, or a dataset that Kedro versions too.
    """
    options = _options(name, (config.get("metadata") or {}).get("dvc") or {})
    # Wrappers (partitions, caches, artifacts) hold the path in the dataset that they wrap.
    inner = config.get("dataset")
    places = [config, inner] if isinstance(inner, Mapping) else [config]
    found = [place[key] for place in places for key in ("filepath", "path") if isinstance(place.get(key), str)]
    filepath = found[0] if found and options.track else None
    if filepath is not None and any(place.get("versioned") for place in places):
        raise StageError(
            f"catalog entry {name}: `versioned: true` keeps every version in the folder itself, which DVC would delete; "
            "remove it, or set `metadata: {dvc: {track: false}}`"
        )
    return Entry(name, str(config.get("type", "")), filepath, options)


def _options(name: str, table: Any) -> OutOptions:
    where = f"catalog entry {name}, metadata.dvc"
    if not isinstance(table, Mapping):
        raise StageError(f"{where}: a mapping is needed, found {table!r}")
    known = {item.name: item.default for item in fields(OutOptions)}
    for key, value in table.items():
        if key not in known:
            raise StageError(f"{where}.{key}: unknown key; known: {', '.join(known)}")
        if not isinstance(value, bool if isinstance(known[key], bool) else str):
            raise StageError(
                f"{where}.{key}: {value!r} is not {'true or false' if isinstance(known[key], bool) else 'text'}"
            )
    try:
        return OutOptions(**table)
    except StageError as error:
        raise StageError(f"{where}: {error}") from None
