"""Lock entries (`dvc.lock`): read, write and compute them, also for stages that DVC does not know.

Also writes the parameters of lock entries back into their files.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from kedro_dvc_sync.errors import StageError
from kedro_dvc_sync.project import Project
from kedro_dvc_sync.stages import Stage
from kedro_dvc_sync.trees import has_path, read_yaml, set_value, value_at

LIMIT_BYTES = 2**30


def read_lock(file: Path) -> dict[str, Any]:
    """Return the stages of a lock file by name; empty where there is no file.

    Raises:
        StageError: it is not a lock file.
    """
    try:
        content = read_yaml(file) if file.is_file() else None
        stages = {} if content is None else content["stages"]
        return {str(name): dict(stage) for name, stage in stages.items()}
    except (YAMLError, AttributeError, KeyError, TypeError, ValueError):
        raise StageError(f"{file}: not a DVC lock; restore it with `git checkout`, or delete it") from None


def changed_leaves(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted path and new value of everything that differs; a mapping that lost a key differs as a whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and set(old) <= set(new):
        for key, value in new.items():
            inner = f"{path}.{key}" if path else str(key)
            if key in old:
                yield from changed_leaves(old[key], value, inner)
            else:
                yield inner, value
    elif old != new:
        yield path, new


def with_parameters(params: Mapping[str, Any], changed: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of a lock entry, with the values that the stage ran with where they differ from the files.

    Then `dvc status` names these parameters, and `dvc repro` runs the stage again with the values of the files.

    Args:
        params: keys and values by file.
        changed: the used value by dotted path.
        order: the parameter files; of those that contain a group, the last one gets the value.
    """
    result = {name: copy.deepcopy(dict(keys)) for name, keys in params.items()}
    for path, value in changed.items():
        keys = [(name, key) for name in order for key in result.get(name, {}) if f"{path}.".startswith(f"{key}.")]
        if keys:
            name, key = keys[-1]
            # A key may contain dots itself, so it must not be split here.
            held = {"": result[name][key]}
            set_value(held, path.replace(key, "", 1), value)
            result[name][key] = held[""]
    return result


def resolved_parameters(entry: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """Return the nested parameters of a stage from its lock entry: all files merged, later ones over earlier ones."""
    merge_stages: dict[str, Any] = {}
    params = _files(entry)
    for name in sorted(params, key=lambda name: order.index(name) if name in order else -1):
        for key, value in params[name].items():
            for path, leaf in _leaves(value, key):
                set_value(merge_stages, path, leaf)
    return merge_stages


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    else:
        yield path, value


def write_lock(file: Path, stages: Mapping[str, Any]) -> None:
    """Write a lock file."""
    from dvc.utils.serialize import dump_yaml

    dump_yaml(file, {"schema": "2.0", "stages": dict(stages)})


def parameters_into_files(root: Path, stages: Mapping[str, Any]) -> list[str]:
    """Write the parameters of lock entries into their files below `root` where they differ; comments are kept.

    Returns:
        dotted paths that were changed.

    Raises:
        StageError: a name leads out of `root`, or is not a YAML file there. Nothing is changed then.
    """
    from dvc.utils.serialize import modify_yaml

    for entry in stages.values():
        for name in _files(entry):
            file = (root / name).resolve()
            if not file.is_relative_to(root.resolve()) or file.suffix not in (".yml", ".yaml") or not file.is_file():
                raise StageError(f"{name}: a lock names this file for parameters, and it is not a YAML file of {root}")
    changed = []
    for entry in stages.values():
        for name, keys in _files(entry).items():
            with modify_yaml(root / name) as content:
                for key, wanted in keys.items():
                    for path, value in changed_leaves(
                        value_at(content, key) if has_path(content, key) else None, wanted, key
                    ):
                        set_value(content, path, value)
                        changed.append(path)
    return changed


def _files(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameter files of an entry, without the file of format versions, which is code and in the commit."""
    return {name: keys for name, keys in (entry.get("params") or {}).items() if not name.endswith(".py")}


def lock_entries(project: Project, stages: Iterable[Stage], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return lock entries of `stages`, by name, computed from the present files.

    Args:
        project: the project with its parameters.
        stages: the stages built from the pipelines.
        known: lock entries of other stages; their outputs are not hashed again.
    """
    outputs = {out["path"]: out for entry in known.values() for out in entry.get("outs") or []}
    files = {**project.parameter_files(), **project.parameter_files("globals")}
    files[str(project.settings.formats)] = project.formats
    result: dict[str, Any] = {}
    for stage in stages:
        outs = [_lock_item(project.root, path) for path in sorted(stage.outputs)]
        deps = [outputs.get(path) or _lock_item(project.root, path) for path in sorted(stage.deps)]
        outputs.update({out["path"]: out for out in outs})
        params = {
            path: {key: value_at(files[path], key) for key in keys or files[path] if has_path(files[path], key)}
            for path, keys in sorted(stage.params.items())
        }
        parts = {"cmd": stage.cmd, "deps": deps, "params": params, "outs": outs}
        result[stage.name] = {key: value for key, value in parts.items() if value}
    return result


def file_hash(path: Path) -> dict[str, Any]:
    """Return DVC's hash of a file or folder, with its size; empty where it is missing or larger than `LIMIT_BYTES`."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import localfs
    from dvc_objects.fs.memory import MemoryFileSystem

    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    if not files or sum(file.stat().st_size for file in files) > LIMIT_BYTES:
        return {}
    _, meta, outputs = build(HashFileDB(MemoryFileSystem(), "/"), str(path.absolute()), localfs, "md5", dry_run=True)
    facts = {key: value for key, value in meta.to_dict().items() if key in ("size", "nfiles")}
    return {"hash": "md5", "md5": outputs.hash_info.value, **facts}


def _lock_item(root: Path, path: str) -> dict[str, Any]:
    return {"path": path, **file_hash(root / path)}
