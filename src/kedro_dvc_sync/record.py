"""What a stage was made of, as `dvc.lock` would say it, also where DVC has not written it yet or does not know the stage."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kedro_dvc_sync.project import Project
from kedro_dvc_sync.stages import Stage
from kedro_dvc_sync.yaml_text import has, value_at

LIMIT_BYTES = 2**30
_PIECE = 2**20


def entries(project: Project, stages: Iterable[Stage], known: Mapping[str, Any]) -> dict[str, Any]:
    """Lock entries of `stages`, by name, for the files as they are now.

    Args:
        project: with its parameters.
        stages: as the graph has them.
        known: the lock's entries of other stages; what these made is not read again.
    """
    made = {out["path"]: out for entry in known.values() for out in entry.get("outs") or []}
    found: dict[str, Any] = {}
    for stage in stages:
        outs = [_item(project.root, path) for path in sorted(stage.made)]
        deps = [made.get(path) or _item(project.root, path) for path in sorted(stage.deps)]
        made.update({out["path"]: out for out in outs})
        files = {file.path: file.content for layer in project.parameter_layers() for file in layer}
        files |= {file.path: file.content for layer in project.parameter_layers("globals") for file in layer}
        files |= {str(project.settings.formats): project.formats}
        params = {
            path: {key: value_at(files[path], key) for key in keys or files[path] if has(files[path], key)}
            for path, keys in sorted(stage.params.items())
        }
        parts = {"cmd": stage.cmd, "deps": deps, "params": params, "outs": outs}
        found[stage.name] = {key: value for key, value in parts.items() if value}
    return found


def file_hash(path: Path) -> dict[str, Any]:
    """DVC's hash of a file or folder, with its size; empty for what is not there or is larger than `LIMIT_BYTES`.

    A folder's hash is that of a list of its files' hashes; Python's caches are no part of it.
    """
    if path.is_file():
        size = path.stat().st_size
        return {"hash": "md5", "md5": _md5(path), "size": size} if size <= LIMIT_BYTES else {}
    files = sorted(_files(path), key=lambda file: file.relative_to(path).as_posix())
    size = sum(file.stat().st_size for file in files)
    if not files or size > LIMIT_BYTES:
        return {}
    listed = [{"md5": _md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    digest = hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    return {"hash": "md5", "md5": f"{digest}.dir", "size": size, "nfiles": len(files)}


def _item(root: Path, path: str) -> dict[str, Any]:
    return {"path": path, **file_hash(root / path)}


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
