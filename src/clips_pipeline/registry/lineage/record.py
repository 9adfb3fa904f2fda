"""Which code, data and parameters made a model: the checkout, and what DVC's lock says of every stage.

No mlflow here: this file reads the project, `lineage_store` keeps what it found.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from clips_pipeline.config import ConfigError, flatten

LOCK_FILE = "dvc.lock"
# A larger difference is data that forgot to be ignored.
PATCH_LIMIT_BYTES = 10 * 2**20
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
    """Code, data and parameters of one model.

    Attributes:
        git: the checkout when the run began.
        environment: Kedro's; None for the base.
        lock: DVC's lock entry of every stage, by name; its parameters are those that were used.
        parameters: of every stage, nested, all files merged.
    """

    git: GitState = field(default_factory=GitState)
    environment: str | None = None
    lock: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, str]:
        """Every output with its hash (`.dir` at its end marks a folder), by path."""
        return dict(sorted(pair for entry in self.lock.values() for pair in _hashes(entry, "outs").items()))

    def inputs(self, stage: str) -> dict[str, str]:
        """Every file and folder that `stage` read, code included, with its hash."""
        return _hashes(self.lock[stage], "deps")

    def select_stages(self, stages: Iterable[str]) -> "Lineage":
        """The same with these stages alone."""
        kept = {name: entry for name, entry in self.lock.items() if name in set(stages)}
        return replace(self, lock=kept)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; `lock` is kept as a file of its own."""
        stages = {
            name: {"command": entry.get("cmd"), "inputs": self.inputs(name), "outputs": _hashes(entry, "outs")}
            for name, entry in self.lock.items()
        }
        git = {"commit": self.git.commit, "dirty": self.git.dirty, "branch": self.git.branch}
        return {"git": git, "environment": self.environment, "parameters": dict(self.parameters), "stages": stages}


def describe(lineage: Lineage) -> str:
    """The lineage for people: one line per fact."""
    git = lineage.git
    lines = [
        f"commit       {git.commit or 'unknown'}{' with uncommitted changes' if git.dirty else ''}",
        f"branch       {git.branch or '-'}",
        f"environment  {lineage.environment or 'base'}",
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
    """The commit and whether the code differs from it.

    Args:
        project: a folder in the checkout.
        outputs: paths, relative to `project`, that do not count as changes. A run rewrites `dvc.lock` (always left out)
            and may rewrite committed metrics; they would make every run look dirty.
    """
    commit = _git(project, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return GitState()
    branch = _git(project, "symbolic-ref", "--short", "-q", "HEAD")
    return GitState(commit.strip(), bool(_changed_files(project, outputs)), branch.strip() if branch else None)


def uncommitted_patch(project: Path, *, outputs: Iterable[str] = ()) -> bytes | None:
    """What `git apply` needs to make the commit into this checkout, new files included; `outputs` as for `git_state`.

    Returns:
        empty where nothing differs; None where the changed files are larger than `PATCH_LIMIT_BYTES`.
    """
    changed = _changed_files(project, outputs)
    top = Path((_git(project, "rev-parse", "--show-toplevel") or ".").strip())
    sizes = [(top / path).stat().st_size for path in changed if (top / path).is_file()]
    if sum(sizes) > PATCH_LIMIT_BYTES:
        return None
    if not changed:
        return b""
    objects = Path((_git(top, "rev-parse", "--git-path", "objects") or "").strip())
    with tempfile.TemporaryDirectory() as temporary:
        # An index and an object store of our own: the user's stay as they are.
        (Path(temporary) / "objects").mkdir()
        own = {
            "GIT_INDEX_FILE": str(Path(temporary) / "index"),
            "GIT_OBJECT_DIRECTORY": str(Path(temporary) / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((top / objects).resolve()),
        }
        paths = "\0".join(str(path) for path in changed).encode()
        _run_git(top, own, "read-tree", "HEAD")
        _run_git(top, own, "add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul", stdin=paths)
        return _run_git(top, own, "diff", "--cached", "--binary", "--no-ext-diff", "--no-color", "HEAD")


def _hashes(entry: Mapping[str, Any], kind: str) -> dict[str, str]:
    # Remote outputs carry an etag or a checksum instead; what was too large to read, or empty, carries none.
    return {
        str(item["path"]): next((str(item[name]) for name in _HASHES if name in item), "none")
        for item in entry.get(kind) or []
    }


def _changed_files(project: Path, outputs: Iterable[str]) -> list[PurePosixPath]:
    """Changed and new files, relative to the repository."""
    status = _git(project, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", ".") or ""
    prefix = (_git(project, "rev-parse", "--show-prefix") or "").strip()
    made = [PurePosixPath(prefix, path) for path in outputs]
    changed = [PurePosixPath(entry[3:]) for entry in status.split("\0") if entry]
    return [p for p in changed if p.name != LOCK_FILE and not any(p.is_relative_to(out) for out in made)]


def _git(project: Path, *arguments: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    # Fixed arguments, no shell; status must not take the index lock from a user's own git command.
    done = subprocess.run(  # noqa: S603
        [program, "--no-optional-locks", *arguments], cwd=project, capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else None


def _run_git(folder: Path, environment: dict[str, str], *arguments: str, stdin: bytes = b"") -> bytes:
    command = [shutil.which("git") or "git", *arguments]
    done = subprocess.run(  # noqa: S603
        command, cwd=folder, env={**os.environ, **environment}, input=stdin, capture_output=True, check=False
    )
    if done.returncode:
        raise ConfigError(f"`git {' '.join(arguments)}` failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return done.stdout
