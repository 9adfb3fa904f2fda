"""Build the DVC stages of a project from its pipelines and catalog."""

import os
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline

from kedro_dvc_sync.errors import StageError
from kedro_dvc_sync.project import Project
from kedro_dvc_sync.settings import Entry
from kedro_dvc_sync.trees import has_path, value_at

MANAGED_KEYS = ("cmd", "wdir", "deps", "params", "outs", "metrics", "plots")


@dataclass(frozen=True)
class Stage:
    """One stage as in `dvc.yaml`; paths are relative to the project.

    Attributes:
        params: keys by file; no keys means the whole file.
        outs, metrics, plots: options that differ from DVC's defaults, by path.
    """

    name: str
    cmd: str
    wdir: str | None = None
    deps: tuple[str, ...] = ()
    params: dict[str, list[str]] = field(default_factory=dict)
    outs: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    plots: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """All paths that the stage writes, with their options."""
        return {**self.outs, **self.metrics, **self.plots}

    def written(self) -> dict[str, Any]:
        """Return the managed keys in the order of DVC's schema, without empty ones."""
        outs = {
            key: [{path: options} if options else path for path, options in sorted(getattr(self, key).items())]
            for key in ("outs", "metrics", "plots")
        }
        params = [{path: sorted(keys) or None} for path, keys in sorted(self.params.items())]
        found = {"cmd": self.cmd, "wdir": self.wdir, "deps": sorted(self.deps), "params": params, **outs}
        return {key: found[key] for key in MANAGED_KEYS if found[key]}


def command(stage: str, environment: str | None) -> str:
    """Return the command that DVC runs for a stage. A stage with another command was written by hand."""
    return f"kedro run {f'--env {environment} ' if environment else ''}--pipelines {stage}"


def build_stages(project: Project, names: Set[str] | None = None) -> list[Stage]:
    """Return the stages of the project's environment, in order.

    An environment may share outputs of the base, such as data. A stage that would write the same paths with the same
    parameters is the base's, and is left out.

    Args:
        project: the project in its environment.
        names: stages to return; None returns all. Others may write paths of the base: an environment that evaluates the
            model of the base names the base's paths for it, and does not train.

    Raises:
        StageError: two stages write the same path, or one passes data to another in memory.
    """
    stages = [stage for stage in _all_stages(project) if names is None or stage.name in names]
    if project.environment is None:
        return stages
    base = Project(project.root)
    shared = {stage.name: stage for stage in _all_stages(base)}
    kept = []
    for stage in stages:
        twin = shared.get(stage.name)
        common = sorted(set(stage.outputs) & {path for other in shared.values() for path in other.outputs})
        if not common:
            kept.append(stage)
        elif twin is None or set(twin.outputs) != set(stage.outputs) or _values(project, stage) != _values(base, stage):
            raise StageError(
                f"stage {stage.name} of environment {project.environment} writes {common[0]}, which the base environment "
                f"writes with other parameters; set another path in this environment"
            )
    return kept


def _all_stages(project: Project) -> list[Stage]:
    stages = [_stage(project, name, pipeline) for name, pipeline in project.stages.items()]
    makers: dict[str, str] = {}
    for stage in stages:
        for path in stage.outputs:
            if path in makers:
                raise StageError(
                    f"stages {makers[path]} and {stage.name} both write {path}; select the pipelines that become stages in "
                    "pyproject.toml, [tool.kedro-dvc] stages"
                )
            makers[path] = stage.name
    for name, pipeline in project.stages.items():
        _refuse_memory_between_stages(project, name, pipeline)
    return stages


def _stage(project: Project, name: str, pipeline: Pipeline) -> Stage:
    outputs = _entries(project, pipeline.all_outputs())
    for path, entry in outputs:
        if "://" in path:
            raise StageError(
                f"catalog entry {entry.name}: DVC versions local files only, not {path}; set "
                "`metadata: {dvc: {track: false}}` there"
            )
    outs = {path for path, _ in outputs}
    read = _entries(project, pipeline.inputs())
    # A path that the stage writes is not a dependency: some nodes get their output path as an input.
    deps = {path for path, _ in read} - outs
    keys = parameter_keys(pipeline)
    deps |= set(_path_parameters(project, keys))

    def chosen(metrics: bool, plots: bool) -> dict[str, dict[str, Any]]:
        return {
            path: e.options.written for path, e in outputs if (e.options.metrics, e.options.plots) == (metrics, plots)
        }

    depth = len(project.stage_file.parent.relative_to(project.root).parts)
    return Stage(
        name=name,
        cmd=command(name, project.environment),
        wdir="/".join([".."] * depth) or None,
        deps=tuple(deps),
        params=_params(project, keys) | _formats(project, [entry for _, entry in outputs]),
        outs=chosen(False, False),
        metrics=chosen(True, False),
        plots=chosen(False, True),
    )


def parameter_keys(pipeline: Pipeline) -> set[str] | None:
    """Return the dotted keys that the pipeline reads as `params:`, without those inside another; None for all parameters."""
    if "parameters" in pipeline.inputs():
        return None
    keys = {name.removeprefix("params:") for name in pipeline.inputs() if name.startswith("params:")}
    return {key for key in keys if not any(key.startswith(f"{other}.") for other in keys)}


def _params(project: Project, keys: set[str] | None) -> dict[str, list[str]]:
    if keys is None:
        return {path: [] for path in project.parameter_files()}
    params: dict[str, list[str]] = {}
    for key in sorted(keys):
        for path, found in project.keys_by_file(key).items():
            params[path] = sorted({*params.get(path, []), *found})
    return params


def _formats(project: Project, outputs: Iterable[Entry]) -> dict[str, list[str]]:
    for entry in outputs:
        for name in entry.options.formats:
            if name not in project.formats:
                raise StageError(
                    f"catalog entry {entry.name}, metadata.dvc.formats: no {name!r} in the file of format versions "
                    f"({project.settings.formats or 'which [tool.kedro-dvc] formats in pyproject.toml names'}); it has "
                    f"{', '.join(project.formats) or 'none'}"
                )
    names = sorted({name for entry in outputs for name in entry.options.formats})
    return {str(project.settings.formats): names} if names else {}


def _entries(project: Project, names: Iterable[str]) -> list[tuple[str, Entry]]:
    """Return path and entry of every dataset that the catalog stores in files."""
    found = []
    for name in sorted(names):
        entry = project.entry(name)
        if entry is not None and entry.filepath is not None:
            path = entry.filepath.removeprefix("file://")
            found.append((path if "://" in path else project.relative(_normalize(project.root, path)), entry))
    return found


def _normalize(root: Path, path: str) -> Path:
    # Not `resolve`: it would follow the links that DVC may create in place of data.
    return Path(os.path.normpath(root / path))


def _path_parameters(project: Project, keys: set[str] | None) -> list[str]:
    values = project.values()
    paths = []
    for name in project.settings.path_parameters:
        read = keys is None or any(name == key or name.startswith(f"{key}.") for key in keys)
        if not read or not has_path(values, name):
            continue
        value = value_at(values, name)
        for item in value if isinstance(value, list) else [value]:
            # DVC cannot hash URLs, and paths in brace notation are not single files.
            if isinstance(item, str) and "://" not in item and "{" not in item:
                paths.append(project.relative(_normalize(project.root, item)))
    return paths


def _values(project: Project, stage: Stage) -> Any:
    keys = parameter_keys(project.stages[stage.name])
    values = project.values()
    return values if keys is None else {key: value_at(values, key) for key in keys}


def _refuse_memory_between_stages(project: Project, name: str, pipeline: Pipeline) -> None:
    for dataset in sorted(pipeline.inputs()):
        entry = project.entry(dataset)
        if entry is not None and (entry.filepath is not None or not entry.options.track):
            continue
        for other, maker in project.stages.items():
            if other != name and dataset in maker.all_outputs():
                raise StageError(
                    f"stage {name} reads {dataset!r} of stage {other}, but the catalog stores it in no file; add a catalog entry"
                )
