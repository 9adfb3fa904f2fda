"""Which code and which data made a model: the git commit and the hashes in `dvc.lock`.

No mlflow here: this file reads the project, `register` writes what it found on the model version.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from clips_pipeline.config import ConfigError

LOCK_FILE = "dvc.lock"
_HASHES = ("md5", "etag", "checksum")


@dataclass(frozen=True)
class GitState:
    """The state of the checkout.

    Attributes:
        commit: 40 hex digits; None outside a repository, before the first commit, or without git.
        dirty: whether files differ from the commit, other than pipeline outputs; None where `commit` is.
        branch: None on a detached head.
    """

    commit: str | None = None
    dirty: bool | None = None
    branch: str | None = None


@dataclass(frozen=True)
class Lineage:
    """Code and data of one model.

    Attributes:
        git: the checkout.
        data: path of every DVC output to its hash (`.dir` at its end marks a folder).
    """

    git: GitState = field(default_factory=GitState)
    data: Mapping[str, str] = field(default_factory=dict)


def read_lineage(project: Path) -> Lineage:
    """Read the checkout and the `dvc.lock` at `project`, the root of the Kedro project.

    Raises:
        ConfigError: `dvc.lock` is not what DVC writes. A missing one is no error: nothing was versioned yet.
    """
    data = data_hashes(project / LOCK_FILE)
    return Lineage(git=git_state(project, outputs=data), data=data)


def data_hashes(lock_file: Path) -> dict[str, str]:
    """Every output path in `dvc.lock` with its hash, by path; empty where there is no such file.

    Raises:
        ConfigError: the file cannot be read as a DVC lock.
    """
    try:
        text = lock_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        lock = yaml.safe_load(text)
    except yaml.YAMLError as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{lock_file}: not YAML ({detail}); restore it with `git checkout -- {LOCK_FILE}`") from None
    try:
        outs = [out for stage in ((lock or {}).get("stages") or {}).values() for out in stage.get("outs") or []]
        return dict(sorted((str(out["path"]), _hash_of(out)) for out in outs))
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{lock_file}: not a DVC lock ({error!r}); restore it with `git checkout -- {LOCK_FILE}`"
        ) from None


def git_state(project: Path, *, outputs: Iterable[str] = ()) -> GitState:
    """The commit and whether the code differs from it.

    Args:
        project: a folder in the checkout.
        outputs: paths, relative to `project`, that do not count as changes. A run rewrites `dvc.lock` (always left out)
            and committed metrics; they would make every run look dirty.
    """
    commit = _git(project, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return GitState()
    status = _git(project, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", ".") or ""
    prefix = (_git(project, "rev-parse", "--show-prefix") or "").strip()
    ignored = [PurePosixPath(prefix, path) for path in (LOCK_FILE, *outputs)]
    changed = [PurePosixPath(entry[3:]) for entry in status.split("\0") if entry]
    dirty = any(not any(path.is_relative_to(out) for out in ignored) for path in changed)
    branch = _git(project, "symbolic-ref", "--short", "-q", "HEAD")
    return GitState(commit=commit.strip(), dirty=dirty, branch=branch.strip() if branch else None)


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files below `folder`: equal exactly for equal contents.

    Raises:
        ConfigError: there is no file.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise ConfigError(f"{folder}: no exported model here; run `kedro run --pipeline train` first")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        # A name cannot hold NUL, so no two lists of files run together into the same bytes.
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\0".encode())
    return digest.hexdigest()


def _hash_of(out: Mapping[str, Any]) -> str:
    # Remote outputs carry an etag or a checksum instead; an output of zero files may carry none.
    return next((str(out[name]) for name in _HASHES if name in out), "none")


def _git(project: Path, *arguments: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    # Fixed arguments, no shell; status must not take the index lock from a user's own git command.
    done = subprocess.run(  # noqa: S603
        [program, "--no-optional-locks", *arguments], cwd=project, capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else None
