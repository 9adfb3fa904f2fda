"""`dvc commit` after a plain `kedro run`, so that `dvc status` is clean as after `dvc repro`."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from kedro_dvc_sync.errors import StageError
from kedro_dvc_sync.lock import changed_leaves, with_parameters
from kedro_dvc_sync.project import Project
from kedro_dvc_sync.settings import read_entry
from kedro_dvc_sync.stages import parameter_keys
from kedro_dvc_sync.trees import has_path, read_yaml, value_at

log = logging.getLogger(__name__)

_LOCK_TIMEOUT_S = 120.0


def within_dvc() -> bool:
    """Return whether DVC started this process as a stage; DVC then commits the outputs itself."""
    return "DVC_ROOT" in os.environ


def uses_dvc(root: Path) -> bool:
    """Return whether the project is in a DVC repository."""
    return any((folder / ".dvc").is_dir() for folder in (root, *root.parents))


def nodes_in_place(project: Project, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> set[str]:
    """Return the names of the nodes that wrote the paths of the stages.

    A hook that redirects an output for one run adds a dataset with `metadata: {dvc: {track: false}}` to the catalog.
    """

    def is_moved(name: str) -> bool:
        entry = project.entry(name)
        if entry is None or not entry.options.track:
            return False
        metadata = getattr(catalog.get(name), "metadata", None)
        return not read_entry(name, {"metadata": metadata}).options.track

    return {node.name for node in pipeline.nodes if not any(map(is_moved, node.outputs))}


def finished_stages(project: Project, nodes: Set[str]) -> list[str]:
    """Return the stages of the environment's `dvc.yaml` all of whose nodes are in `nodes`."""
    if not project.stage_file.is_file():
        return []
    written = (read_yaml(project.stage_file) or {}).get("stages") or {}
    pipelines = project.stages.items()
    return [name for name, pipeline in pipelines if name in written and {node.name for node in pipeline.nodes} <= nodes]


def other_parameters(project: Project, stage: str, used: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of `stage` whose used value differs from the files that DVC tracks: used value by dotted path.

    They come from `kedro run --params`, or from the environment that git ignores (conf/local).
    """
    files = project.values()
    keys = parameter_keys(project.stages[stage])
    changed: dict[str, Any] = {}
    for key in sorted(set(used) | set(files) if keys is None else keys):
        if has_path(files, key) and has_path(used, key):
            changed.update(changed_leaves(value_at(files, key), value_at(used, key), key))
    return changed


def commit(project: Project, nodes: Set[str], used: Mapping[str, Any]) -> list[str]:
    """Run `dvc commit` for the stages all of whose nodes ran.

    The lock records the parameters that were used. A stage that ran with `--params` is therefore not clean afterwards:
    its parameters in the lock differ from those in the files.

    Args:
        project: the project in the run's environment.
        nodes: names of the nodes that ran.
        used: parameters of the run.

    Returns:
        the committed stages.

    Raises:
        StageError: DVC refuses.
    """
    stages = finished_stages(project, nodes)
    if not stages:
        return []
    # Imported here: DVC takes half a second to import, and only a run that finished a stage needs it.
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        with Repo(str(project.root)) as repo, _wait_for_lock(repo):
            for name in stages:
                # As `dvc commit --force`, but with the parameters that were used.
                stage = repo.stage.load_one(str(project.stage_file), name)
                stage.save()
                watched = {dep.def_path: dep for dep in stage.deps if isinstance(dep, ParamsDependency)}
                values = {path: dep.hash_info.value for path, dep in watched.items()}
                changed = other_parameters(project, name, used)
                for path, value in with_parameters(values, changed, project.parameter_order).items():
                    watched[path].hash_info.value = value
                stage.commit()
                stage.dump(update_pipeline=False)
    except DvcException as error:
        raise StageError(
            f"`dvc commit` failed, so `dvc status` will report changes: {error}. If a path was renamed, update the stages with "
            "`kedro dvc sync`"
        ) from None
    return stages


@contextmanager
def _wait_for_lock(repo: Any) -> Iterator[None]:
    """Hold DVC's lock; DVC itself gives up after three seconds, and the commit of the second of two runs would be lost."""
    from dvc.lock import LockError
    from dvc.repo import lock_repo

    ends = time.monotonic() + _LOCK_TIMEOUT_S
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock_repo(repo))
                break
            except LockError:
                if time.monotonic() > ends:
                    raise
                log.warning("another process uses the DVC repository; waiting until it ends")
        yield
