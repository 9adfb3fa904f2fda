"""Lineage on MLflow runs and model versions: tags for users, files for `kedro lineage`."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError
from clips_pipeline.io.json_text import parse_json
from clips_pipeline.registry.lineage.record import GitState, Lineage
from clips_pipeline.registry.tracking.code_changes import TAG, parse_code_changes
from clips_pipeline.registry.tracking.runs import mlflow_key

_COMMIT, _NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}"), re.compile(r"\w[\w.-]*")

_LONGEST_TAG = 5_000  # MLflow's limit for a tag of a version

FACTS, LOCK, PATCH = "lineage.json", "dvc.lock", "uncommitted.patch"


@dataclass(frozen=True)
class Record:
    """The lineage of a version, with what is needed to restore its checkout.

    Attributes:
        name, version: the registered model.
        lineage: code, data and parameters.
        patch: uncommitted changes of the checkout; None where they were too large to keep.
    """

    name: str
    version: int
    lineage: Lineage
    patch: bytes | None


def git_tags(git: GitState) -> dict[str, str]:
    """Return the tags `git.commit`, `git.dirty` and `git.branch`."""
    return {
        "git.commit": git.commit or "unknown",
        "git.dirty": "unknown" if git.dirty is None else str(git.dirty).lower(),
        "git.branch": git.branch or "unknown",
    }


def tag_run(run_id: str, git: GitState) -> None:
    """Tag a run with the git state at its start. A continued run keeps the tags of its training."""
    client = MlflowClient()
    present = client.get_run(run_id).data.tags
    for key, value in git_tags(git).items():
        if key not in present:
            client.set_tag(run_id, key, value)


def record_run(run_id: str, lineage: Lineage, patch: bytes | None) -> None:
    """Store the lineage of the stages that wrote to a run: tags `data.<path>`, and artifacts in `lineage/<stage>/`."""
    client = MlflowClient()
    for stage in lineage.lock:
        # Only data: the commit identifies the code.
        inputs = {path: value for path, value in lineage.inputs(stage).items() if not path.startswith("src/")}
        for path, value in {**inputs, **lineage.select_stages([stage]).data}.items():
            client.set_tag(run_id, mlflow_key(f"data.{path}"), value)
        _log_files(client, run_id, f"lineage/{stage}", lineage.select_stages([stage]), patch)


def tag_version(name: str, version: int, lineage: Lineage, patch: bytes | None) -> None:
    """Store the lineage of a version: tags, and files in `lineage/<name>-<version>/` of its run's artifacts."""
    client = MlflowClient()
    data = {mlflow_key(f"data.{path}"): value for path, value in lineage.data.items()}
    if lineage.code_changes:
        data[TAG] = "; ".join(map(str, lineage.code_changes))[:_LONGEST_TAG]
    for key, value in {**git_tags(lineage.git), **data}.items():
        client.set_model_version_tag(name, str(version), key, value)
    _log_files(client, client.get_model_version(name, str(version)).run_id, f"lineage/{name}-{version}", lineage, patch)


def load_record(name: str, version: str) -> Record:
    """Return the lineage of a version.

    Args:
        name: name of the registered model.
        version: its number, or an alias.

    Raises:
        ConfigError: there is no such version, or it has no lineage.
    """
    client = MlflowClient()
    try:
        by_number = version.isdecimal()
        model_version = (
            client.get_model_version(name, version) if by_number else client.get_model_version_by_alias(name, version)
        )
    except MlflowException:
        known = sorted(int(model_version.version) for model_version in client.search_model_versions(f"name='{name}'"))
        have = f"versions: {', '.join(map(str, known))}" if known else "no model of this name is registered"
        raise ConfigError(f"{name}: no version or alias {version!r} at {mlflow.get_registry_uri()}; {have}") from None
    folder = f"lineage/{name}-{model_version.version}"
    with tempfile.TemporaryDirectory() as temporary:
        try:
            here = Path(client.download_artifacts(model_version.run_id, folder, temporary))
            facts = parse_json((here / FACTS).read_text(encoding="utf-8"))
            lock = yaml.safe_load((here / LOCK).read_text(encoding="utf-8"))["stages"]
            git = GitState(**facts["git"] | {"not_kept": tuple(map(str, facts["git"].get("not_kept", ())))})
            environment, parameters = facts["environment"], facts["parameters"]
            changes = parse_code_changes(facts.get("code_changes", []))
        except (MlflowException, OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError):
            raise ConfigError(
                f"{name} {model_version.version}: its lineage is missing or unreadable; run `kedro run --pipelines register` in "
                "the project that made it"
            ) from None
        patch = (here / PATCH).read_bytes() if (here / PATCH).is_file() else None
    _check_names(
        f"{name} {model_version.version}", git.commit, [*([] if environment is None else [environment]), *lock]
    )
    lineage = Lineage(git, environment, lock, parameters, changes)
    return Record(name, int(model_version.version), lineage, patch if lineage.git.dirty else b"")


def _check_names(what: str, commit: str | None, names: list[str]) -> None:
    """Refuse invalid names, because they become arguments of git and DVC, and parts of paths."""
    wrong = [name for name in names if not _NAME.fullmatch(str(name))]
    if commit is not None and not _COMMIT.fullmatch(str(commit)):
        wrong.append(commit)
    if wrong:
        raise ConfigError(
            f"{what}: its lineage names {wrong[0]!r}, which is not a commit, environment or stage; it was not written by "
            "`kedro run`, so it is not used"
        )


def _log_files(client: MlflowClient, run_id: str, folder: str, lineage: Lineage, patch: bytes | None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        (here / FACTS).write_text(json.dumps(lineage.to_mapping(), indent=1), encoding="utf-8")
        lock: dict[str, Any] = {"schema": "2.0", "stages": dict(lineage.lock)}
        (here / LOCK).write_text(yaml.safe_dump(lock, sort_keys=False, allow_unicode=True), encoding="utf-8")
        # An empty patch is stored too, because a missing one means that it was too large.
        if patch is not None and lineage.git.dirty:
            (here / PATCH).write_bytes(patch)
        client.log_artifacts(run_id, str(here), folder)
