"""`dvc.lock`: of which parameters a stage's results were made, and putting such parameters back into their files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kedro_dvc_sync.errors import StageError


def read_lock(file: Path) -> dict[str, Any]:
    """The stages of a lock file by name; empty where there is none.

    Raises:
        StageError: it is not a lock file.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
        stages = {} if content is None else content["stages"]
        return {str(name): dict(stage) for name, stage in stages.items()}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        raise StageError(f"{file}: not a DVC lock; restore it with `git checkout`, or delete it") from None


def changed_leaves(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and new value of all that differs; what lost a key differs as a whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and set(old) <= set(new):
        for key, value in new.items():
            inner = f"{path}.{key}" if path else str(key)
            if key in old:
                yield from changed_leaves(old[key], value, inner)
            else:
                yield inner, value
    elif old != new:
        yield path, new


def set_value(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path in nested dicts, making those that are missing."""
    *parents, last = path.split(".")
    for part in parents:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[last] = value


def note_parameters(file: Path, stage: str, changed: Mapping[str, Any], order: Sequence[str]) -> None:
    """Write into the lock that `stage` ran with other values than its parameter files hold.

    So `dvc status` names these parameters, and `dvc repro` runs the stage again with what the files say.

    Args:
        file: the lock.
        stage: its name there.
        changed: dotted path to the value that was used.
        order: the parameter files; of those that hold a group, the last one wins and takes the value.
    """
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    params = content["stages"][stage].get("params") or {}
    for path, value in changed.items():
        holders = [
            (name, key) for name in order for key in params.get(name, {}) if path == key or path.startswith(f"{key}.")
        ]
        if holders:
            name, key = holders[-1]
            # A key may hold dots itself, so it is no path here.
            held = {"": params[name][key]}
            set_value(held, path.replace(key, "", 1), value)
            params[name][key] = held[""]
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
