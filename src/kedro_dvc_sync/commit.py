"""After a plain `kedro run`, tell DVC what it made, so that both entrances leave `dvc status` clean."""

import os
import subprocess
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import yaml

from kedro_dvc_sync.errors import StageError
from kedro_dvc_sync.lock import changed_leaves, read_lock, with_parameters, write_lock
from kedro_dvc_sync.project import Project
from kedro_dvc_sync.stages import parameter_keys
from kedro_dvc_sync.yaml_text import has, value_at


def within_dvc() -> bool:
    """Whether DVC itself started this process as a stage: then it commits what comes out."""
    return "DVC_ROOT" in os.environ


def uses_dvc(root: Path) -> bool:
    """Whether the project stands in a DVC repository."""
    return any((folder / ".dvc").is_dir() for folder in (root, *root.parents))


def finished_stages(project: Project, nodes: Set[str]) -> list[str]:
    """The stages of the environment's `dvc.yaml` all of whose nodes are among `nodes`."""
    if not project.stage_file.is_file():
        return []
    written = (yaml.safe_load(project.stage_file.read_text(encoding="utf-8")) or {}).get("stages") or {}
    pipelines = project.stages.items()
    return [name for name, pipeline in pipelines if name in written and {node.name for node in pipeline.nodes} <= nodes]


def other_parameters(project: Project, stage: str, used: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of `stage` whose value is not the one in the files that DVC watches: dotted path to the value used.

    They come from `kedro run --params` or from the environment that git ignores (conf/local).
    """
    files = project.values()
    keys = parameter_keys(project.stages[stage])
    found: dict[str, Any] = {}
    for key in sorted(set(used) | set(files) if keys is None else keys):
        if has(files, key) and has(used, key):
            found.update(changed_leaves(value_at(files, key), value_at(used, key), key))
    return found


def commit(project: Project, nodes: Set[str], used: Mapping[str, Any]) -> list[str]:
    """`dvc commit` the stages that ran whole.

    The lock records the parameters that were used, so a stage that ran with `--params` is not clean afterwards: its
    parameters in the lock differ from those in the files, as they should.

    Args:
        project: in the environment of the run.
        nodes: names of the nodes that ran.
        used: the parameters of the run.

    Returns:
        the stages.

    Raises:
        StageError: DVC refuses.
    """
    stages = finished_stages(project, nodes)
    if not stages:
        return []
    file = project.relative(project.stage_file)
    command = [sys.executable, "-m", "dvc", "commit", "--force", *(f"{file}:{stage}" for stage in stages)]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise StageError(
            f"`dvc commit` failed, so `dvc status` will show changes: {done.stderr.strip()[-500:]}. "
            "Where a path was renamed, `kedro dvc sync` writes the stages again"
        )
    lock = read_lock(project.lock_file)
    told = {
        stage: with_parameters(lock[stage], other_parameters(project, stage, used), project.parameter_order)
        for stage in stages
    }
    if any(told[stage] != lock[stage] for stage in stages):
        write_lock(project.lock_file, {**lock, **told})
    return stages
