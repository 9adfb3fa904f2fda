"""Exported models as MLflow's LoggedModels: found by their metrics, also where they were never registered."""

from pathlib import Path

import mlflow
from mlflow.entities import LoggedModelOutput
from mlflow.tracking import MlflowClient

from clips_pipeline.interop.digest import model_digest

MODEL_DIGEST = "model.sha256"
MODEL_TYPE = "clips"


def logged_model(client: MlflowClient, run_id: str, model_folder: Path, digest: str | None = None) -> str:
    """The id of the LoggedModel of a run's exported model, which is made where there is none.

    Its files stay where they are until `register` packages them into it.

    Args:
        client: of the tracking server.
        run_id: of the training.
        model_folder: what it exported.
        digest: of the folder, where it is known.
    """
    digest = digest or model_digest(model_folder)
    run = client.get_run(run_id)
    # Several exports of one run (a training that was prolonged) are several models.
    found = mlflow.search_logged_models(
        [run.info.experiment_id],
        f"source_run_id = '{run_id}' AND tags.`{MODEL_DIGEST}` = '{digest}'",
        max_results=1,
        output_format="list",
    )
    if found:
        return str(found[0].model_id)
    model = mlflow.create_external_model(
        name=MODEL_TYPE,
        source_run_id=run_id,
        experiment_id=run.info.experiment_id,
        model_type=MODEL_TYPE,
        params=dict(run.data.params),
        tags={MODEL_DIGEST: digest, "model.folder": str(model_folder)},
    )
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def log_exported(run_id: str | None, model_folder: Path) -> None:
    """Give a training's exported model its LoggedModel; None: the training was not tracked."""
    if run_id is not None:
        logged_model(MlflowClient(), run_id, model_folder)
