"""Lineage of a run: the state of git at its start, DVC's lock at its end."""

import hashlib
import logging
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.registry.lineage.record import GitState, Lineage, git_state, not_kept_message, uncommitted_patch
from kedro_dvc_sync.commit import other_parameters, within_dvc
from kedro_dvc_sync.errors import StageError
from kedro_dvc_sync.lock import lock_entries, read_lock, resolved_parameters, with_parameters
from kedro_dvc_sync.project import Project
from kedro_dvc_sync.stages import build_stages

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CodeState:
    """Git state and uncommitted changes at the start of a run; files may be edited while it trains."""

    git: GitState
    patch: bytes | None

    @property
    def summary(self) -> dict[str, Any]:
        """Commit, whether files differ from it, and a digest of the uncommitted changes; plain values."""
        patch = None if self.patch is None else hashlib.sha256(self.patch).hexdigest()[:16]
        return {"commit": self.git.commit, "dirty": self.git.dirty, "patch": patch}


def code_state(root: Path) -> CodeState:
    """Return the state of git and the uncommitted changes.

    Raises:
        ConfigError: `dvc.lock` is not a lock file.
    """
    project = Project(root)
    try:
        lock = read_lock(project.lock_file)
    except StageError as error:
        raise ConfigError(str(error)) from None
    output_paths = [out["path"] for entry in lock.values() for out in entry.get("outs") or []]
    git = git_state(root, outputs=output_paths)
    if git.not_kept:
        log.warning("lineage of this run: %s", not_kept_message(git))
    try:
        return CodeState(git, uncommitted_patch(root, outputs=output_paths) if git.dirty else b"")
    except ConfigError as error:
        log.warning("uncommitted changes could not be kept, so a version of this run cannot be restored: %s", error)
        return CodeState(git, None)


def gather_lineage(
    project: Project, nodes: Set[str], used: Mapping[str, Any], code: CodeState
) -> tuple[Lineage, set[str]]:
    """Return the lineage after a run, and the stages all of whose nodes ran.

    A stage that DVC does not know, or will commit only afterwards (within `dvc repro`), is read from the files.

    Args:
        project: the project in the run's environment.
        nodes: names of the nodes that ran.
        used: parameters of the run.
        code: code state at the start of the run.
    """
    lock = {
        **(read_lock(Project(project.root).lock_file) if project.environment else {}),
        **read_lock(project.lock_file),
    }
    pipelines = project.stages.items()
    ran = {name for name, pipeline in pipelines if {node.name for node in pipeline.nodes} <= nodes}
    by_dvc = project.stage_file.is_file() and not within_dvc()
    uncommitted = build_stages(project, {name for name in ran if not (by_dvc and name in lock)})
    for name, entry in lock_entries(project, uncommitted, lock).items():
        params = with_parameters(
            entry.get("params", {}), other_parameters(project, name, used), project.parameter_order
        )
        lock[name] = {**entry, "params": params}
    parameters: dict[str, Any] = {}
    for entry in lock.values():
        parameters.update(resolved_parameters(entry, project.parameter_order))
    return Lineage(code.git, project.environment, lock, parameters), ran
