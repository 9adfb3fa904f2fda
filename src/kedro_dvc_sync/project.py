"""A Kedro project as the generator sees it: pipelines, catalog entries and parameter files of one environment.

No dataset is built and no credential is read: paths are text in the catalog.
"""

import re
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from kedro.config import MissingConfigException
from kedro.framework import project as kedro_project
from kedro.framework.project import pipelines, settings
from kedro.framework.startup import bootstrap_project
from kedro.io import CatalogConfigResolver
from kedro.pipeline import Pipeline

from kedro_dvc_sync.errors import StageError
from kedro_dvc_sync.settings import Entry, Settings, read_entry, read_settings
from kedro_dvc_sync.trees import has_path, read_yaml, value_at

_GLOBALS = re.compile(r"\$\{globals:\s*([\w.]+)")
_PATTERNS = {"parameters": ["parameters*", "parameters*/**", "**/parameters*"], "globals": ["globals.yml"]}


class Project:
    """The Kedro project at `root`, in one environment.

    Args:
        root: the folder with pyproject.toml.
        environment: None for the base environment.

    Raises:
        StageError: no such environment.
    """

    def __init__(self, root: Path, environment: str | None = None):
        self.root = root.resolve()
        kedro = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["kedro"]
        # Within a run the project is set up already, and must not be set up twice.
        if kedro["package_name"] != kedro_project.PACKAGE_NAME:
            bootstrap_project(self.root)
        arguments = settings.CONFIG_LOADER_ARGS
        self.base: str = arguments.get("base_env") or "base"
        self.environment = None if environment in (None, self.base) else environment
        self.conf = self.root / settings.CONF_SOURCE
        if self.environment is not None and not (self.conf / self.environment).is_dir():
            raise StageError(f"{settings.CONF_SOURCE}/{self.environment}: no such environment")
        self.settings: Settings = read_settings(self.root)

    @property
    def stage_file(self) -> Path:
        """Where the stages of this environment stand: an environment's own file, so that a plain `dvc repro` leaves it alone."""
        folder = self.root if self.environment is None else self.conf / self.environment
        return folder / "dvc.yaml"

    @property
    def lock_file(self) -> Path:
        """DVC's record of this environment's stages."""
        return self.stage_file.with_name("dvc.lock")

    def relative(self, path: Path) -> str:
        """`path` as DVC writes it; outside the project, absolute."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()

    @cached_property
    def stages(self) -> dict[str, Pipeline]:
        """The pipelines that are stages, by name.

        Raises:
            StageError: the settings name a pipeline that is not registered.
        """
        registered = dict(pipelines)
        wanted = self.settings.stages or [name for name in registered if not _is_sum_of_others(name, registered)]
        for name in wanted:
            if name not in registered:
                raise StageError(
                    f"pyproject.toml, [tool.kedro-dvc] stages: no pipeline {name!r}; registered: {', '.join(registered)}"
                )
        return {name: registered[name] for name in wanted}

    @cached_property
    def _configuration(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, list[str]]]:
        """Catalog, parameters, and the loader's patterns.

        All at once: `${globals:...}` is resolved by whichever loader was made last in this process.
        """
        arguments = settings.CONFIG_LOADER_ARGS
        loader = settings.CONFIG_LOADER_CLASS(str(self.conf), env=self.environment or self.base, **arguments)
        found: list[dict[str, Any]] = []
        for kind in ("catalog", "parameters"):
            try:
                found.append(dict(loader[kind]))
            except MissingConfigException:
                found.append({})
        return found[0], found[1], loader.config_patterns

    @cached_property
    def _resolver(self) -> Any:
        catalog = self._configuration[0]
        return CatalogConfigResolver(_without_credentials(catalog), {}, {"{default}": {"type": "MemoryDataset"}})

    @property
    def datasets(self) -> list[str]:
        """Names of the catalog's entries, patterns left out."""
        return sorted(self._resolver.config)

    def entry(self, name: str) -> Entry | None:
        """The catalog entry of a dataset, also by a pattern; None for what stays in memory."""
        resolver = self._resolver
        config = resolver.config.get(name)
        if config is None and (resolver.match_dataset_pattern(name) or resolver.match_user_catch_all_pattern(name)):
            config = resolver.resolve_pattern(name)
        return None if config is None else read_entry(name, config)

    def values(self) -> dict[str, Any]:
        """The parameters of this environment, as files alone give them."""
        return self._configuration[1]

    def parameter_files(self, kind: str = "parameters") -> dict[str, Mapping[str, Any]]:
        """The content of the parameter (or globals) files by path: what stands later wins, the environment's after the base's."""
        layers = [self.base] if self.environment is None else [self.base, self.environment]
        patterns = self._configuration[2].get(kind, _PATTERNS[kind])
        found = {}
        for layer in layers:
            for path in sorted({path for pattern in patterns for path in (self.conf / layer).glob(pattern)}):
                if path.is_file() and path.suffix in (".yml", ".yaml", ".json"):
                    found[self.relative(path)] = read_yaml(path) or {}
        return found

    @property
    def parameter_order(self) -> list[str]:
        """The parameter files, later ones over earlier ones."""
        return list(self.parameter_files())

    @cached_property
    def formats(self) -> dict[str, int]:
        """The format versions by name, read as DVC reads them: assignments of numbers in a Python file.

        Raises:
            StageError: the settings name no such file.
        """
        if self.settings.formats is None:
            return {}
        from dvc.exceptions import DvcException
        from dvc.utils.serialize import load_py

        try:
            return dict(load_py(str(self.root / self.settings.formats)))
        except (OSError, DvcException) as error:
            raise StageError(f"pyproject.toml, [tool.kedro-dvc] formats: {self.settings.formats}: {error}") from None

    def keys_by_file(self, key: str, kind: str = "parameters") -> dict[str, list[str]]:
        """Which files give the dotted `key`, and which keys of globals it is made of.

        Raises:
            StageError: none does.
        """
        found: dict[str, list[str]] = {}
        files = self.parameter_files(kind)
        strategy = (settings.CONFIG_LOADER_ARGS.get("merge_strategy") or {}).get("parameters")
        if kind == "parameters" and strategy != "soft":
            # Kedro's default: an environment that sets one key of a group replaces the group.
            top, own = key.split(".")[0], f"{self.relative(self.conf)}/{self.environment}/"
            replaced = {path: content for path, content in files.items() if path.startswith(own) and top in content}
            files = replaced or files
        for file, content in files.items():
            if not has_path(content, key):
                continue
            found.setdefault(file, []).append(key)
            for used in sorted(set(_GLOBALS.findall(yaml.safe_dump(value_at(content, key))))):
                for path, keys in self.keys_by_file(used, "globals").items():
                    found[path] = sorted({*found.get(path, []), *keys})
        if not found:
            where = " or ".join(
                f"{self.relative(self.conf)}/{name}" for name in filter(None, (self.base, self.environment))
            )
            raise StageError(f"{kind} {key}: in no {kind} file of {where}")
        return found


def _is_sum_of_others(name: str, registered: Mapping[str, Pipeline]) -> bool:
    nodes = set(registered[name].nodes)
    parts = [set(other.nodes) for key, other in registered.items() if key != name and set(other.nodes) < nodes]
    return name == "__default__" or not nodes or (bool(parts) and nodes == set().union(*parts))


def _without_credentials(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _without_credentials(value) for key, value in config.items() if key != "credentials"}
    return config
