"""Exported models and kept checkpoints as MLflow LoggedModels, which can be searched by metric without being registered."""

import math
from collections.abc import Sequence
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModelOutput, Metric, Run
from mlflow.tracking import MlflowClient

from clips_pipeline.interop.digest import model_digest
from clips_pipeline.registry.tracking.run_tracking import event_metrics
from clips_pipeline.training.events.event_log import Event
from clips_pipeline.training.resume.checkpoint_store import list_checkpoints

MODEL_DIGEST = "model.sha256"
MODEL_TYPE = "clips"
CHECKPOINT_TYPE = "checkpoint"
CHECKPOINT_STEP = "checkpoint.step"


def get_or_create_logged_model(client: MlflowClient, run_id: str, model_folder: Path, digest: str | None = None) -> str:
    """Return the id of the LoggedModel of a run's exported model; create it where it is missing.

    It holds no files until `register` packages them into it.

    Args:
        client: client of the tracking server.
        run_id: run of the training.
        model_folder: the exported model folder.
        digest: digest of the folder, where it is known.
    """
    digest = digest or model_digest(model_folder)
    run = client.get_run(run_id)
    # A run with several exports (a prolonged training) has several models.
    found = mlflow.search_logged_models(
        [run.info.experiment_id],
        f"source_run_id = '{run_id}' AND tags.`{MODEL_DIGEST}` = '{digest}'",
        max_results=1,
        output_format="list",
    )
    if found:
        return str(found[0].model_id)
    tags = {MODEL_DIGEST: digest, "model.folder": str(model_folder)}
    return _create(client, run, MODEL_TYPE, MODEL_TYPE, tags, step=0)


def log_exported(run_id: str | None, model_folder: Path) -> None:
    """Create the LoggedModel of a training's exported model; None: the training was not tracked."""
    if run_id is not None:
        get_or_create_logged_model(MlflowClient(), run_id, model_folder)


def log_checkpoints(run_id: str | None, folder: Path, events: Sequence[Event]) -> None:
    """Create a LoggedModel for every kept checkpoint, with the metrics measured at its step.

    The files stay where they are. The LoggedModel of a checkpoint that has been deleted since is deleted too.

    Args:
        run_id: run of the training; None where it was not tracked.
        folder: folder of the checkpoints.
        events: events of the training.
    """
    if run_id is None:
        return
    client = MlflowClient()
    run = client.get_run(run_id)
    kept = {checkpoint.step: checkpoint.folder for checkpoint in list_checkpoints(folder)}
    known = mlflow.search_logged_models(
        [run.info.experiment_id],
        f"source_run_id = '{run_id}' AND model_type = '{CHECKPOINT_TYPE}'",
        output_format="list",
    )
    for model in known:
        if kept.pop(int(model.tags[CHECKPOINT_STEP]), None) is None:
            client.delete_logged_model(model.model_id)
    for step, path in kept.items():
        tags = {CHECKPOINT_STEP: str(step), "model.folder": str(path)}
        model_id = _create(client, run, f"checkpoint-{step}", CHECKPOINT_TYPE, tags, step)
        # The run already has these points; MLflow stores equal points once.
        points = [
            Metric(name, value, int(event["time"] * 1000), step, model_id=model_id, run_id=run_id)
            for event in events
            if event.get("step") == step
            for name, value in event_metrics(event).items()
            if math.isfinite(value)
        ]
        client.log_batch(run_id, metrics=points)


def _create(client: MlflowClient, run: Run, name: str, kind: str, tags: dict[str, str], step: int) -> str:
    model = mlflow.create_external_model(
        name=name,
        source_run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        model_type=kind,
        params=dict(run.data.params),
        tags=tags,
    )
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=step)])
    return str(model.model_id)
