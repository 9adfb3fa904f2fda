"""Facts about a run from MLflow: its artifacts in `training/`, and for runs of earlier versions parameters and tags."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError, to_mapping
from clips_pipeline.registry.differences.from_folder import data_of, read_code_files
from clips_pipeline.registry.differences.run_facts import RunFacts, surroundings_of, training_parameters, valid_events
from clips_pipeline.registry.tracking.data_inputs import TRAINING_DATA
from clips_pipeline.registry.tracking.surroundings import FOLDER, HISTORY_FILE
from clips_pipeline.registry.versions.compare_models import resolve
from clips_pipeline.training.events.event_log import Event
from clips_pipeline.training.resume.run_folder import CODE_FILES, SPEC
from clips_pipeline.training.run_spec import load_spec

_CURVES = ("train/", "validation/")
_NOT_CURVES = ("train/data_wait_fraction",)
_NO_RESULTS = ("skipped/", "system/")


def read_mlflow(name: str) -> RunFacts:
    """Return what MLflow says of `runs:/ID`, `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

    Raises:
        ConfigError: there is no such run.
    """
    client = MlflowClient()
    run = client.get_run(str(resolve(client, name)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = _download(client, run, Path(temporary))
        history = _read_history(folder / HISTORY_FILE)
        found = surroundings_of(history)
        code = {**_git(run), **found["code"]}
        files = read_code_files(folder / CODE_FILES, code.get("source of the package"))
        data, parameters = _inputs(run), dict(run.data.params)
        if (folder / SPEC).is_file():
            spec = load_spec(folder / SPEC)
            data |= data_of(spec)
            parameters = {key: value for key, value in parameters.items() if not key.startswith("train.")}
            parameters |= training_parameters(to_mapping(spec.train))
    return RunFacts(
        name,
        f"MLflow run {run.info.run_id}",
        parameters,
        data,
        code,
        files,
        found["versions"],
        found["hardware"],
        history,
        _curves(client, run),
        {
            key.replace("_at_", "@"): value
            for key, value in sorted(run.data.metrics.items())
            if not key.startswith((*_CURVES, *_NO_RESULTS)) and math.isfinite(value)
        },
    )


def _download(client: MlflowClient, run: Run, target: Path) -> Path:
    try:
        if not any(artifact.path == FOLDER for artifact in client.list_artifacts(run.info.run_id)):
            return target / "missing"
        return Path(client.download_artifacts(run.info.run_id, FOLDER, str(target)))
    except (MlflowException, OSError) as error:
        raise ConfigError(f"runs:/{run.info.run_id}: its artifacts cannot be read: {error}; restore them") from None


def _read_history(path: Path) -> list[Event]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return valid_events(content) if isinstance(content, list) else []


def _git(run: Run) -> dict[str, str]:
    tags = run.data.tags
    dirty = {"true": "yes", "false": "none"}.get(tags.get("git.dirty", ""))
    known = {"commit": tags.get("git.commit"), "uncommitted changes": dirty}
    return {name: value for name, value in known.items() if value not in (None, "unknown")}


def _inputs(run: Run) -> dict[str, str]:
    """Return the data version from the inputs of the run."""
    for logged in run.inputs.dataset_inputs:
        if logged.dataset.name == TRAINING_DATA:
            profile: Any = json.loads(logged.dataset.profile or "{}")
            if profile.get("data_version"):
                return {"shards": str(profile["data_version"])}
    return {}


def _curves(client: MlflowClient, run: Run) -> dict[str, dict[int, float]]:
    curves: dict[str, dict[int, float]] = {}
    for key in run.data.metrics:
        if key.startswith(_CURVES) and key not in _NOT_CURVES:
            points = client.get_metric_history(run.info.run_id, key)
            name = key.removeprefix("train/").replace("_at_", "@")
            curves[name] = {point.step: point.value for point in points if math.isfinite(point.value)}
    return curves
