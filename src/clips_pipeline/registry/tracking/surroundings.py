"""How a training ran, in its MLflow run: artifacts in `training/` for `kedro compare --runs`, and tags to search by."""

import json
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from clips_pipeline.training.events.event_log import HISTORY, Event, read_all
from clips_pipeline.training.resume.run_folder import CODE_FILES, SPEC

FOLDER = "training"
"""Folder of the artifacts: the run spec, `HISTORY_FILE` and the digests of the source files."""
HISTORY_FILE = "history.json"
"""The events of the event log that are no curves."""

_LONGEST_TAG = 250


def log_surroundings(client: MlflowClient, run_id: str, run_folder: Path, start: Event | None) -> None:
    """Log run spec, starts and stops, and digests of the code; they replace those of an earlier start.

    Args:
        client: client of the tracking server.
        run_id: the run.
        run_folder: the training's folder.
        start: the latest `start` event, for the tags; None leaves them.
    """
    if (run_folder / SPEC).is_file():
        client.log_artifact(run_id, str(run_folder / SPEC), FOLDER)
    events = [event for event in read_all(run_folder / "events.jsonl") if event["kind"] in HISTORY]
    client.log_text(run_id, json.dumps(events, indent=0), f"{FOLDER}/{HISTORY_FILE}")
    if (run_folder / CODE_FILES).is_dir():
        client.log_artifacts(run_id, str(run_folder / CODE_FILES), f"{FOLDER}/{CODE_FILES}")
    for key, value in _tags(start or {}).items():
        client.set_tag(run_id, key, value[:_LONGEST_TAG])


def _tags(start: Event) -> dict[str, str]:
    hardware, versions = start.get("hardware", {}), start.get("versions", {})
    values: dict[str, Any] = {
        "code": start.get("code"),
        "python": versions.get("Python"),
        "torch": versions.get("packages", {}).get("torch"),
        "cpu": hardware.get("CPU"),
        "gpus": ", ".join(hardware.get("GPUs", [])),
        "ranks": hardware.get("ranks"),
    }
    return {f"training.{name}": str(value) for name, value in values.items() if value not in (None, "")}
