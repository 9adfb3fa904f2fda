"""Code, data and parameters of a model: state of the checkout, and DVC's lock entries of every stage.

This module reads the project and does not import mlflow; `tags` stores the lineage in MLflow.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from clips_pipeline.config import ConfigError, flatten
from clips_pipeline.io.redact import redact
from clips_pipeline.registry.tracking.code_changes import CodeChange

LOCK_FILE = "dvc.lock"
# A larger patch is probably data that git does not ignore.
PATCH_LIMIT_BYTES = 10 * 2**20
MAX_NAMES = 100
"""Limit on the names of files that are not kept."""
_MAX_NAMES_SHOWN = 5
_HASHES = ("md5", "etag", "checksum")


@dataclass(frozen=True)
class GitState:
    """State of the checkout.

    Attributes:
        commit: 40 hex digits; None outside a repository, before the first commit, or without git.
        dirty: whether files other than pipeline outputs differ from the commit; None where `commit` is None.
        branch: None on a detached head.
        not_kept: files that git does not track, the first `MAX_NAMES` of them, relative to the repository. The patch lacks them,
            because one may be a private key or a file of passwords.
    """

    commit: str | None = None
    dirty: bool | None = None
    branch: str | None = None
    not_kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """Code, data and parameters of one model.

    Attributes:
        git: the checkout at the start of the run.
        environment: Kedro environment; None for the base.
        lock: DVC's lock entry of every stage, by name, with the parameters that were used.
        parameters: nested parameters of all stages, with all files merged.
        code_changes: changes of the code while the training was interrupted.
    """

    git: GitState = field(default_factory=GitState)
    environment: str | None = None
    lock: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    code_changes: tuple[CodeChange, ...] = ()

    @property
    def data(self) -> dict[str, str]:
        """Hash of every output, by path; a hash that ends in `.dir` is a folder's."""
        return dict(sorted(pair for entry in self.lock.values() for pair in _hashes(entry, "outs").items()))

    def inputs(self, stage: str) -> dict[str, str]:
        """Return the hash of every file and folder that `stage` read, code included."""
        return _hashes(self.lock[stage], "deps")

    def select_stages(self, stages: Iterable[str]) -> "Lineage":
        """Return the lineage of these stages only."""
        selected = {name: entry for name, entry in self.lock.items() if name in set(stages)}
        return replace(self, lock=selected)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values for JSON; `lock` is stored as a file of its own."""
        stages = {
            name: {"command": entry.get("cmd"), "inputs": self.inputs(name), "outputs": _hashes(entry, "outs")}
            for name, entry in self.lock.items()
        }
        git = asdict(self.git) | {"not_kept": list(self.git.not_kept)}
        return {
            "git": git,
            "environment": self.environment,
            "parameters": dict(self.parameters),
            "code_changes": [asdict(change) for change in self.code_changes],
            "stages": stages,
        }


def describe(lineage: Lineage) -> str:
    """Return the lineage as text, one line per fact."""
    git = lineage.git
    lines = [
        f"commit       {git.commit or 'unknown'}{' with uncommitted changes' if git.dirty else ''}",
        f"branch       {git.branch or '-'}",
        f"environment  {lineage.environment or 'base'}",
        *(f"trained      {change}" for change in lineage.code_changes),
        *([f"not kept     {', '.join(git.not_kept)}"] if git.not_kept else []),
    ]
    for stage in lineage.lock:
        lines += ["", f"{stage}: {lineage.lock[stage].get('cmd')}"]
        inputs = lineage.inputs(stage)
        outputs = lineage.select_stages([stage]).data
        width = max((len(path) for path in (*inputs, *outputs)), default=0)
        for title, hashes in (("read", inputs), ("made", outputs)):
            lines += [f"  {title}  {path:<{width}}  {value}" for path, value in sorted(hashes.items())]
    lines += ["", "parameters"]
    lines += [f"  {path} = {value}" for path, value in flatten(lineage.parameters).items()]
    return "\n".join(lines)


def git_state(project: Path, *, outputs: Iterable[str] = ()) -> GitState:
    """Return the commit, and whether the code differs from it.

    Args:
        project: a folder in the checkout.
        outputs: paths, relative to `project`, that do not count as changes. A run always rewrites `dvc.lock` (left out
            as well) and may rewrite committed metrics, which would make every run dirty.
    """
    commit = _git(project, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return GitState()
    branch = _git(project, "symbolic-ref", "--short", "-q", "HEAD")
    changed, untracked = _changed_files(project, outputs)
    return GitState(
        commit.strip(),
        bool(changed or untracked),
        branch.strip() if branch else None,
        tuple(str(path) for path in untracked[:MAX_NAMES]),
    )


def not_kept_message(git: GitState) -> str:
    """Return which files the lineage lacks, and the remedy."""
    more = len(git.not_kept) - _MAX_NAMES_SHOWN
    names = ", ".join(git.not_kept[:_MAX_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"not kept: {names}; before training, `git add` what a version needs, and list the rest in .gitignore"


def uncommitted_patch(project: Path, *, outputs: Iterable[str] = ()) -> bytes | None:
    """Return the patch that turns the commit into this checkout with `git apply`; `outputs` as in `git_state`.

    It contains tracked files only. A new file counts after `git add`, or `git add --intent-to-add`.

    Returns:
        empty where nothing differs; None where the changed files are larger than `PATCH_LIMIT_BYTES`.
    """
    changed, _ = _changed_files(project, outputs)
    top = Path((_git(project, "rev-parse", "--show-toplevel") or ".").strip())
    sizes = [(top / path).stat().st_size for path in changed if (top / path).is_file()]
    if sum(sizes) > PATCH_LIMIT_BYTES:
        return None
    if not changed:
        return b""
    objects = Path((_git(top, "rev-parse", "--git-path", "objects") or "").strip())
    with tempfile.TemporaryDirectory() as temporary:
        # Use a temporary index and object store, to leave the user's unchanged.
        (Path(temporary) / "objects").mkdir()
        git_environment = {
            "GIT_INDEX_FILE": str(Path(temporary) / "index"),
            "GIT_OBJECT_DIRECTORY": str(Path(temporary) / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((top / objects).resolve()),
        }
        paths = "\0".join(str(path) for path in changed).encode()
        _run_git(top, git_environment, "read-tree", "HEAD")
        # Not `git add`: it reads names as patterns, and takes all files of a folder that has replaced a file.
        _run_git(top, git_environment, "update-index", "--add", "--remove", "-z", "--stdin", stdin=paths)
        return _run_git(top, git_environment, "diff", "--cached", "--binary", "--no-ext-diff", "--no-color", "HEAD")


def _hashes(entry: Mapping[str, Any], kind: str) -> dict[str, str]:
    # Remote outputs have an etag or a checksum instead; outputs too large to read, and empty ones, have none.
    return {
        str(item["path"]): next((str(item[name]) for name in _HASHES if name in item), "none")
        for item in entry.get(kind) or []
    }


def _changed_files(project: Path, outputs: Iterable[str]) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """Return changed tracked files, and files that are neither tracked nor ignored, relative to the repository."""
    status = _git(project, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", ".") or ""
    prefix = (_git(project, "rev-parse", "--show-prefix") or "").strip()
    output_paths = [PurePosixPath(prefix, path) for path in outputs]
    changed: list[PurePosixPath] = []
    untracked: list[PurePosixPath] = []
    for entry in filter(None, status.split("\0")):
        path = PurePosixPath(entry[3:])
        if path.name != LOCK_FILE and not any(path.is_relative_to(out) for out in output_paths):
            (untracked if entry.startswith("??") else changed).append(path)
    return changed, untracked


def _git(project: Path, *arguments: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    # Fixed arguments, no shell. Without optional locks, status does not block a user's own git command.
    completed = subprocess.run(  # noqa: S603
        [program, "--no-optional-locks", *arguments], cwd=project, capture_output=True, text=True, check=False
    )
    return completed.stdout if completed.returncode == 0 else None


def _run_git(folder: Path, environment: dict[str, str], *arguments: str, stdin: bytes = b"") -> bytes:
    command = [shutil.which("git") or "git", *arguments]
    completed = subprocess.run(  # noqa: S603
        command, cwd=folder, env={**os.environ, **environment}, input=stdin, capture_output=True, check=False
    )
    if completed.returncode:
        raise ConfigError(
            f"`git {' '.join(arguments)}` failed: {redact(completed.stderr.decode(errors='replace').strip())[-500:]}"
        )
    return completed.stdout
