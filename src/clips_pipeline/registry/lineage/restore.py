"""Restore a checkout with the code, data and parameters of a registered version."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.io.redact import redact
from clips_pipeline.registry.lineage.record import not_kept_message
from clips_pipeline.registry.lineage.tags import Record
from kedro_dvc_sync.lock import parameters_into_files, write_lock
from kedro_dvc_sync.stages import command

log = logging.getLogger(__name__)

CONF = "conf"
# `-P`: not from the working directory, which holds the files of the version, and where a patch may add a `dvc/`.
_DVC = (sys.executable, "-P", "-m", "dvc")


def restore(record: Record, project: Path, target: Path) -> Path:
    """Clone the project at the version's commit into `target`, and restore its changes, parameters, lock and data there.

    A warning names the files that the version lacks because git did not track them (`GitState.not_kept`).

    Data comes from the project's DVC cache, or else from its remote. The clone uses the same cache.

    Args:
        record: record of the version.
        project: the project folder in the repository that has the commit.
        target: a folder that does not exist, or an empty one.

    Returns:
        the project folder in `target`.

    Raises:
        ConfigError: the version cannot be restored: no commit, a patch that was too large to keep, a commit that is not
            in this repository, no DVC stages, or missing data. `target` is left as it was.
        ConfigError: everything was restored, but DVC reports a change; `target` is kept for inspection.
    """
    what, git = f"{record.name} {record.version}", record.lineage.git
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: not an empty folder; choose another one")
    if git.commit is None:
        raise ConfigError(
            f"{what}: it was not made in a git commit, so its code is unknown; train again in a git repository"
        )
    if record.patch is None:
        raise ConfigError(
            f"{what}: the uncommitted changes to {git.commit[:12]} were too large to keep; commit before training"
        )
    if _run(project, "git", "cat-file", "-e", f"{git.commit}^{{commit}}").returncode:
        raise ConfigError(f"{what}: commit {git.commit} is not in this repository; fetch it")
    if git.not_kept:
        log.warning("%s: the copy lacks what git did not track; %s", what, not_kept_message(git))
    prefix = _run(project, "git", "rev-parse", "--show-prefix").stdout.strip()
    existed = target.exists()
    try:
        restored = _checkout(record, project, target, prefix)
        _restore_data(record, project, restored)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        if existed:
            target.mkdir()
        raise
    if _dvc(restored, "status", "--quiet", *_targets(record)).returncode:
        status = _dvc(restored, "status", *_targets(record)).stdout.strip()
        raise ConfigError(f"{target}: restored, but the version was registered while DVC reported changes:\n{status}")
    return restored


def _checkout(record: Record, project: Path, target: Path, prefix: str) -> Path:
    lineage = record.lineage
    top = _run_checked(project, "git", "rev-parse", "--show-toplevel").strip()
    _run_checked(project, "git", "clone", "--quiet", "--no-checkout", top, str(target.absolute()))
    _run_checked(target, "git", "checkout", "--quiet", "--detach", str(lineage.git.commit))
    if record.patch:
        completed = subprocess.run(
            ["git", "apply", "--binary", "--whitespace=nowarn", "-"],  # noqa: S607
            cwd=target,
            input=record.patch,
            capture_output=True,
            check=False,
        )
        if completed.returncode:
            raise ConfigError(
                f"the version's uncommitted changes cannot be applied: {completed.stderr.decode(errors='replace').strip()}"
            )
    restored = target.absolute() / prefix
    folder = restored if lineage.environment is None else restored / CONF / lineage.environment
    if not (folder / "dvc.yaml").is_file():
        option = f" --env {lineage.environment}" if lineage.environment else ""
        raise ConfigError(
            f"{record.name} {record.version} has no data in DVC, because there were no stages for environment "
            f"{lineage.environment or 'base'}; run `kedro dvc sync{option}` before the next run"
        )
    parameters_into_files(restored, lineage.lock)
    for file, stages in _stages_by_file(record).items():
        write_lock((restored / file).with_name("dvc.lock"), {name: lineage.lock[name] for name in stages})
    return restored


def _stages_by_file(record: Record) -> dict[str, list[str]]:
    """Return the stages by their `dvc.yaml`; an environment may share some of the base's."""
    environment = record.lineage.environment
    stages: dict[str, list[str]] = {}
    for name, entry in record.lineage.lock.items():
        own = environment is not None and entry["cmd"] == command(name, environment)
        stages.setdefault(f"{CONF}/{environment}/dvc.yaml" if own else "dvc.yaml", []).append(name)
    return stages


def _targets(record: Record) -> list[str]:
    return [f"{file}:{name}" for file, names in _stages_by_file(record).items() for name in names]


def _restore_data(record: Record, project: Path, restored: Path) -> None:
    """Check out the data from the project's cache, or else from its remote."""
    private = project / ".dvc" / "config.local"
    if private.is_file():
        # The remote's URL and credentials may be only in this file.
        shutil.copy2(private, restored / ".dvc" / "config.local")
    cache = _run_checked(project, *_DVC, "cache", "dir").strip()
    _run_checked(restored, *_DVC, "cache", "dir", "--local", str((project / cache).resolve()))
    if not _dvc(restored, "checkout", "--quiet", *_targets(record)).returncode:
        return
    pulled = _dvc(restored, "pull", "--quiet", *_targets(record))
    if pulled.returncode:
        reason = redact(pulled.stderr.strip())[-800:]
        what = f"{record.name} {record.version}"
        raise ConfigError(f"{what}: its data is neither in the DVC cache of {project} nor in a remote:\n{reason}")


def _dvc(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return _run(folder, *_DVC, *arguments)


def _run(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    # Fixed programs, no shell.
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603


def _run_checked(folder: Path, *command: str) -> str:
    completed = _run(folder, *command)
    if completed.returncode:
        raise ConfigError(f"`{' '.join(command)}` failed: {redact(completed.stderr.strip())[-500:]}")
    return completed.stdout
