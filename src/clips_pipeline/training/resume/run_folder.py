"""Which run folder a training has, and what may differ from what was begun there. Loads no torch.

A training that was interrupted goes on in its folder, with what may change applied. What may not change makes another
training: it is refused while the one that was begun is unfinished, since a week of it should not be left for a default that
somebody has edited; with `launch.on_change: restart` it gets a folder of its own.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError, flatten, to_mapping
from clips_pipeline.training.resume import checkpoint_store
from clips_pipeline.training.run_spec import RunSpec, load_spec

log = logging.getLogger(__name__)

SPEC = "run_spec.json"
_MOST_NAMED = 5
# Where things lie and how they are reached; the data itself is `data_version`.
_PLACES = ("shards", "tokenizer", "run_folder", "model_folder", "storage", "shard_cache")
_FIXED_IN_LAUNCH = ("train.launch.precision",)
_MAY_CHANGE = ("train.samples", "train.every.", "train.launch.")


@dataclass(frozen=True)
class Change:
    """A parameter that is not what it was.

    Attributes:
        key: its dotted path.
        before, now: its values.
    """

    key: str
    before: Any
    now: Any

    @property
    def allowed(self) -> bool:
        """Whether a training may go on with it."""
        return self.key.startswith(_MAY_CHANGE) and self.key not in _FIXED_IN_LAUNCH

    def __str__(self) -> str:
        return f"{self.key} was {json.dumps(self.before)} and is now {json.dumps(self.now)}"


def compare_specs(before: RunSpec, now: RunSpec) -> list[Change]:
    """What differs, except for places, by key."""
    old, new = flatten(to_mapping(before)), flatten(to_mapping(now))
    keys = [key for key in sorted(old.keys() | new.keys()) if key.split(".")[0] not in _PLACES]
    return [Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def check_changes(found: list[Change], folder: Path) -> None:
    """Refuse changes that make another training.

    Raises:
        ConfigError: which, with both values.
    """
    forbidden = [change for change in found if not change.allowed]
    if forbidden:
        named = "; ".join(str(change) for change in forbidden[:_MOST_NAMED])
        more = f" (and {len(forbidden) - _MOST_NAMED} more)" if len(forbidden) > _MOST_NAMED else ""
        raise ConfigError(
            f"{named}{more}: {folder} holds an unfinished training, which cannot go on so. Put it back to go on; or set "
            f"train.launch.on_change to restart, or delete that folder, to train anew"
        )


def choose_run_folder(spec: RunSpec, runs: Path, announce: bool = True) -> RunSpec:
    """The spec with its run folder under `runs`: that of the same training, of an unfinished one that it may go on with, or
    a new one, named by the fingerprint.

    Args:
        spec: without a run folder.
        runs: the folder of all run folders.
        announce: warn of what is applied or left; False for a look that another call will follow.

    Raises:
        ConfigError: there is an unfinished training that differs in what may not change.
    """
    warn = log.warning if announce else log.debug
    begun = _begun(runs, warn)
    same = next((folder for folder, other in begun if other.fingerprint == spec.fingerprint), None)
    if same is not None:
        return dataclasses.replace(spec, run_folder=str(same))
    unfinished = [(folder, compare_specs(other, spec)) for folder, other in begun if _is_unfinished(folder)]
    for folder, found in unfinished:
        if all(change.allowed for change in found):
            for change in found:
                warn("%s; applied to the unfinished training in %s", change, folder)
            return dataclasses.replace(spec, run_folder=str(folder))
    for folder, found in unfinished:
        if spec.train.launch.on_change == "refuse":
            check_changes(found, folder)
        warn("an unfinished training is left in %s: %s", folder, "; ".join(map(str, found)))
    return dataclasses.replace(spec, run_folder=str(runs / spec.fingerprint))


def write_spec(spec: RunSpec) -> Path:
    """Write the spec into its run folder, which must be there.

    Raises:
        ConfigError: the folder belongs to another training; resuming would mix two runs.
        CannotWriteError: the disk is full, or the like.
    """
    folder = Path(spec.run_folder)
    path = folder / SPEC
    if path.exists():
        check_changes(compare_specs(load_spec(path), spec), folder)
    spec.save(path)
    return path


def code_digest() -> str:
    """Of this package's source. It decides nothing: a training that goes on with other code says so (`changes_since`)."""
    package, found = Path(__file__).parents[2], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        found.update(f"{file.relative_to(package)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:16]


def changes_since(checkpoint: checkpoint_store.Checkpoint, spec: RunSpec, code: str | None = None) -> list[Change]:
    """What has changed since a checkpoint was written, if the training may go on from it; also the source, as `code`.

    Args:
        checkpoint: to go on from.
        spec: of the training now.
        code: `code_digest` now; None leaves the source out.

    Raises:
        ConfigError: it may not, or is shorter now than what has been trained.
    """
    found = compare_specs(load_spec(checkpoint.folder / checkpoint_store.SPEC), spec)
    check_changes(found, Path(spec.run_folder))
    if checkpoint.step > spec.train.steps:
        done = checkpoint.step * spec.train.batch_size
        raise ConfigError(
            f"train.samples: {spec.train.samples}, but {done} are trained already; set it to {done} or more, or delete "
            f"{spec.run_folder} to train anew"
        )
    written = checkpoint.folder / checkpoint_store.CODE
    if code is not None and written.exists() and written.read_text() != code:
        found.append(Change("code", written.read_text(), code))
    return found


def files_digest(folder: Path) -> str:
    """Of names and content of the files in `folder`."""
    found = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        found.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:16]


def _begun(runs: Path, warn: Callable[..., None]) -> list[tuple[Path, RunSpec]]:
    """Trainings under `runs`, the one whose spec was written last first."""
    found = []
    for path in sorted(runs.glob(f"*/{SPEC}"), key=lambda path: -path.stat().st_mtime_ns):
        try:
            found.append((path.parent, load_spec(path)))
        except ConfigError as error:
            warn("%s is left out: %s", path.parent, error)  # of another version
    return found


def _is_unfinished(folder: Path) -> bool:
    """Whether there is something to lose: checkpoints, and neither an end nor an error that comes again."""
    if checkpoint_store.newest(folder / "checkpoints") is None:
        return False
    last: dict[str, Any] = {}
    events = folder / "events.jsonl"
    for line in reversed(events.read_bytes().splitlines() if events.exists() else []):
        try:
            last = json.loads(line)
        except ValueError:
            continue
        if last["kind"] in ("start", "end", "error"):
            break
    return not (last.get("kind") == "end" and last["finished"]) and last.get("again", True)
