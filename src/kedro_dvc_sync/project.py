"""A Kedro project in one environment: pipelines, catalog entries and parameter files.

Creates no datasets and reads no credentials: paths are read from the catalog's text.
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
        # Within a run the project is already set up, and must not be set up twice.
        if kedro["package_name"] != kedro_project.PACKAGE_NAME:
            bootstrap_project(self.root)
        arguments = settings.CONFIG_LOADER_ARGS
        self.base: str = arguments.get("base_env") or "base"
        self.environment = None if environment in (None, self.base) else environment
        self.conf = self.root / settings.CONF_SOURCE
        if self.environment is not None and not (self.conf / self.environment).is_dir():
            raise StageError(f"{settings.CONF_SOURCE}/{self.environment}: no such environment; create the folder")
        self.settings: Settings = read_settings(self.root)

    @property
    def stage_file(self) -> Path:
        """The `dvc.yaml` of this environment. It is in the environment's own folder, so a plain `dvc repro` does not run it."""
        folder = self.root if self.environment is None else self.conf / self.environment
        return folder / "dvc.yaml"

    @property
    def lock_file(self) -> Path:
        """DVC's lock file of this environment's stages."""
        return self.stage_file.with_name("dvc.lock")

    def relative(self, path: Path) -> str:
        """Return `path` as DVC writes it: relative to the project, or absolute if it is outside."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()

    @cached_property
    def stages(self) -> dict[str, Pipeline]:
        """The pipelines that become stages, by name.

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

        They are loaded together, because the loader created last in this process resolves `${globals:...}`.
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
        """Names of the catalog's entries, without patterns."""
        return sorted(self._resolver.config)

    def entry(self, name: str) -> Entry | None:
        """Return the catalog entry of a dataset, also by a pattern; None for one that stays in memory."""
        resolver = self._resolver
        config = resolver.config.get(name)
        if config is None and (resolver.match_dataset_pattern(name) or resolver.match_user_catch_all_pattern(name)):
            config = resolver.resolve_pattern(name)
        return None if config is None else read_entry(name, config)

    def values(self) -> dict[str, Any]:
        """Return the parameters of this environment from its files."""
        return self._configuration[1]

    def parameter_files(self, kind: str = "parameters") -> dict[str, Mapping[str, Any]]:
        """Return the content of the parameter (or globals) files by path.

        Later files take precedence; the environment's files come after the base's.
        """
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
        """The parameter files; later ones take precedence."""
        return list(self.parameter_files())

    @cached_property
    def formats(self) -> dict[str, int]:
        """The format versions by name, read as DVC reads them: assignments of numbers in a Python file.

        Raises:
            StageError: the settings name a file that cannot be read.
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
        """Return the files that set the dotted `key`, with the keys of globals that its value uses.

        Raises:
            StageError: no file sets it.
        """
        found: dict[str, list[str]] = {}
        files = self.parameter_files(kind)
        strategy = (settings.CONFIG_LOADER_ARGS.get("merge_strategy") or {}).get("parameters")
        if kind == "parameters" and strategy != "soft":
            # Kedro's default merge: an environment that sets one key of a group replaces the whole group.
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
            raise StageError(f"{kind} {key}: not set in any {kind} file of {where}; add it")
        return found


def _is_sum_of_others(name: str, registered: Mapping[str, Pipeline]) -> bool:
    nodes = set(registered[name].nodes)
    parts = [set(other.nodes) for key, other in registered.items() if key != name and set(other.nodes) < nodes]
    return name == "__default__" or not nodes or (bool(parts) and nodes == set().union(*parts))


def _without_credentials(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _without_credentials(value) for key, value in config.items() if key != "credentials"}
    return config
