"""What a stage was made of, as `dvc.lock` would say it, also where DVC has not written it yet or does not know the stage."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kedro_dvc_sync.project import Project
from kedro_dvc_sync.stages import Stage
from kedro_dvc_sync.trees import has, value_at

LIMIT_BYTES = 2**30


def entries(project: Project, stages: Iterable[Stage], known: Mapping[str, Any]) -> dict[str, Any]:
    """Lock entries of `stages`, by name, for the files as they are now.

    Args:
        project: with its parameters.
        stages: as the graph has them.
        known: the lock's entries of other stages; what these made is not read again.
    """
    made = {out["path"]: out for entry in known.values() for out in entry.get("outs") or []}
    files = {**project.parameter_files(), **project.parameter_files("globals")}
    files[str(project.settings.formats)] = project.formats
    found: dict[str, Any] = {}
    for stage in stages:
        outs = [_item(project.root, path) for path in sorted(stage.made)]
        deps = [made.get(path) or _item(project.root, path) for path in sorted(stage.deps)]
        made.update({out["path"]: out for out in outs})
        params = {
            path: {key: value_at(files[path], key) for key in keys or files[path] if has(files[path], key)}
            for path, keys in sorted(stage.params.items())
        }
        parts = {"cmd": stage.cmd, "deps": deps, "params": params, "outs": outs}
        found[stage.name] = {key: value for key, value in parts.items() if value}
    return found


def file_hash(path: Path) -> dict[str, Any]:
    """DVC's hash of a file or folder, with its size; empty for what is not there or is larger than `LIMIT_BYTES`."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import localfs
    from dvc_objects.fs.memory import MemoryFileSystem

    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    if not files or sum(file.stat().st_size for file in files) > LIMIT_BYTES:
        return {}
    _, meta, made = build(HashFileDB(MemoryFileSystem(), "/"), str(path.absolute()), localfs, "md5", dry_run=True)
    facts = {key: value for key, value in meta.to_dict().items() if key in ("size", "nfiles")}
    return {"hash": "md5", "md5": made.hash_info.value, **facts}


def _item(root: Path, path: str) -> dict[str, Any]:
    return {"path": path, **file_hash(root / path)}
