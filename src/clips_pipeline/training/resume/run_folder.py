"""Choice of the run folder, and which parameters may differ from an unfinished training there. Does not import torch.

An interrupted training resumes in its folder, with the parameters that may change applied. Any other change makes it another
training. While the first one is unfinished, that is refused, so that an edited default does not abandon a week of training. With
`launch.on_change: restart` the new training gets a folder of its own.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError, flatten, to_mapping
from clips_pipeline.data.storage.credentials import refuse_secrets
from clips_pipeline.io.disk_errors import write_text
from clips_pipeline.training.resume import checkpoint_store
from clips_pipeline.training.run_spec import RunSpec, load_spec

log = logging.getLogger(__name__)

SPEC = "run_spec.json"
CODE_FILES = "code"
"""Folder with the digests of the source files, one JSON file for each source that trained in the run folder."""
_MAX_CHANGES_SHOWN = 5
# Where files are and how they are reached; the data itself is identified by `data_version`.
_LOCATIONS = ("shards", "tokenizer", "run_folder", "model_folder", "storage", "shard_cache")
_FIXED_IN_LAUNCH = ("train.launch.precision", "train.launch.residual", "train.launch.communication")
_MAY_CHANGE = ("train.samples", "train.every.", "train.launch.")


@dataclass(frozen=True)
class ParameterChange:
    """A parameter with another value than before.

    Attributes:
        key: dotted path of the parameter.
        before: former value.
        now: present value.
    """

    key: str
    before: Any
    now: Any

    @property
    def allowed(self) -> bool:
        """Whether a training may resume with it."""
        return self.key.startswith(_MAY_CHANGE) and self.key not in _FIXED_IN_LAUNCH

    def __str__(self) -> str:
        return f"{self.key} was {json.dumps(self.before)} and is now {json.dumps(self.now)}"


def compare_specs(before: RunSpec, now: RunSpec) -> list[ParameterChange]:
    """Return the parameters that differ, by key, without the locations of files."""
    old, new = flatten(to_mapping(before)), flatten(to_mapping(now))
    keys = [key for key in sorted(old.keys() | new.keys()) if key.split(".")[0] not in _LOCATIONS]
    return [ParameterChange(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def check_changes(changes: list[ParameterChange], folder: Path) -> None:
    """Refuse changes that make it another training.

    Raises:
        ConfigError: some changes are not allowed; the message has both values of each.
    """
    forbidden = [change for change in changes if not change.allowed]
    if forbidden:
        named = "; ".join(str(change) for change in forbidden[:_MAX_CHANGES_SHOWN])
        hidden = len(forbidden) - _MAX_CHANGES_SHOWN
        more = f" (and {hidden} more)" if hidden > 0 else ""
        raise ConfigError(
            f"{named}{more}: {folder} holds an unfinished training, which cannot resume with this. Restore the value to resume; "
            f"or set train.launch.on_change to restart, or delete that folder, to train from the beginning"
        )


def choose_run_folder(spec: RunSpec, runs: Path, announce: bool = True) -> RunSpec:
    """Return the spec with its run folder under `runs`.

    The folder is that of the same training; else that of an unfinished training that may resume with this spec; else a new one,
    named by the fingerprint.

    Args:
        spec: a run spec without a run folder.
        runs: folder of all run folders.
        announce: warn about changes that are applied and trainings that are left; False if another call follows.

    Raises:
        ConfigError: an unfinished training differs in a parameter that may not change.
    """
    warn = log.warning if announce else log.debug
    existing = _list_runs(runs, warn)
    same = next((folder for folder, other in existing if other.fingerprint == spec.fingerprint), None)
    if same is not None:
        return dataclasses.replace(spec, run_folder=str(same))
    unfinished = [(folder, compare_specs(other, spec)) for folder, other in existing if _is_unfinished(folder)]
    for folder, changes in unfinished:
        if all(change.allowed for change in changes):
            for change in changes:
                warn("%s; applied to the unfinished training in %s", change, folder)
            return dataclasses.replace(spec, run_folder=str(folder))
    for folder, changes in unfinished:
        if spec.train.launch.on_change == "refuse":
            check_changes(changes, folder)
        warn("an unfinished training stays in %s: %s", folder, "; ".join(map(str, changes)))
    return dataclasses.replace(spec, run_folder=str(runs / spec.fingerprint))


def write_spec(spec: RunSpec) -> Path:
    """Write the spec into its run folder, which must exist, and return the file.

    Raises:
        ConfigError: the folder belongs to another training, and resuming would mix two runs; or an address of the spec contains a
            password, token or signature.
        CannotWriteError: the disk is full or failed.
    """
    folder = Path(spec.run_folder)
    path = folder / SPEC
    refuse_secrets(to_mapping(spec), "run spec")
    if path.exists():
        check_changes(compare_specs(load_spec(path), spec), folder)
    spec.save(path)
    return path


def code_files() -> dict[str, str]:
    """Return the SHA-256 of every file of this package's source, by its path in the package."""
    package = Path(__file__).parents[2]
    return {
        file.relative_to(package).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(package.rglob("*.py"))
    }


def code_digest(files: Mapping[str, str] | None = None) -> str:
    """Return a digest of this package's source. It decides nothing: a resume with other code is only reported.

    Args:
        files: what `code_files` returns; None reads the source.
    """
    digest = hashlib.sha256()
    for name, content in (code_files() if files is None else files).items():
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def keep_code_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write the digests of the source files into a run folder, once for each source that trained there.

    Raises:
        CannotWriteError: the disk is full or failed.
    """
    path = folder / CODE_FILES / f"{code_digest(files)}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({name: content[:16] for name, content in files.items()}, indent=0))


def changes_since(
    checkpoint: checkpoint_store.Checkpoint, spec: RunSpec, code: str | None = None
) -> list[ParameterChange]:
    """Return what has changed since a checkpoint was written; a change of the source has the key `code`.

    Args:
        checkpoint: the checkpoint to resume from.
        spec: the present run spec.
        code: the present `code_digest`; None does not compare the source.

    Raises:
        ConfigError: a change is not allowed, or the training would be shorter than what is already trained.
    """
    changes = compare_specs(load_spec(checkpoint.folder / checkpoint_store.SPEC), spec)
    check_changes(changes, Path(spec.run_folder))
    if checkpoint.step > spec.train.steps:
        done = checkpoint.step * spec.train.batch_size
        raise ConfigError(
            f"train.samples: {spec.train.samples}, but {done} are already trained; set it to {done} or more, or delete "
            f"{spec.run_folder} to train from the beginning"
        )
    written = checkpoint.folder / checkpoint_store.CODE
    if code is not None and written.exists() and written.read_text() != code:
        changes.append(ParameterChange("code", written.read_text(), code))
    return changes


def files_digest(folder: Path) -> str:
    """Return a digest of names and contents of the files in `folder`."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _list_runs(runs: Path, warn: Callable[..., None]) -> list[tuple[Path, RunSpec]]:
    """Return the run folders under `runs` with their specs, the spec that was written last first."""
    found = []
    for path in sorted(runs.glob(f"*/{SPEC}"), key=lambda path: -path.stat().st_mtime_ns):
        try:
            found.append((path.parent, load_spec(path)))
        except ConfigError as error:
            warn("%s is ignored: %s", path.parent, error)  # written by another version
    return found


def _is_unfinished(folder: Path) -> bool:
    """Return whether the folder has a checkpoint, and its log neither a finished end nor an error that would occur again."""
    if checkpoint_store.latest_folder(folder / "checkpoints") is None:
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
