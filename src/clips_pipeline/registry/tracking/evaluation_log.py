"""Results of an evaluation in MLflow: metrics, report and per-item results, for comparing any two versions."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.per_item.item_table import read_items
from clips_pipeline.evaluation.per_item.items import ItemResults
from clips_pipeline.registry.tracking.logged_models import get_or_create_logged_model
from clips_pipeline.registry.tracking.runs import active_run_id, config_error_if_missing, log_final_metrics

log = logging.getLogger(__name__)

FOLDER = "per_item"


def existing_run_id(run_id: str | None) -> str | None:
    """Return the run that gets the results of a model.

    A model may come from elsewhere (`dvc pull`), so that this tracking server does not have its run. Then it is the
    active run.

    Args:
        run_id: the run of the training; None where it was not tracked.
    """
    if run_id is None:
        return None
    try:
        with config_error_if_missing(
            f"MLflow run {run_id} of this model does not exist at {mlflow.get_tracking_uri()}"
        ):
            MlflowClient().get_run(run_id)
    except ConfigError as error:
        log.warning("%s", error)
        return active_run_id()
    return run_id


def log_evaluation(
    run_id: str | None,
    metrics: dict[str, float],
    report: Path,
    items: Mapping[str, pd.DataFrame],
    model: Path | None = None,
) -> None:
    """Log metrics, per-item results of each set and the report to a run, and the metrics to its LoggedModel.

    Args:
        run_id: as returned by `existing_run_id`; None logs nothing.
        metrics: as in `metrics.json`.
        report: the HTML page.
        items: per-item results by set.
        model: the evaluated folder or file.
    """
    if run_id is None:
        return
    client = MlflowClient()
    log_final_metrics(
        client, run_id, metrics, None if model is None else get_or_create_logged_model(client, run_id, model)
    )
    client.log_artifact(run_id, str(report))
    log_items(client, run_id, items)


def log_report(run_id: str | None, report: Path) -> None:
    """Log a report to a run as an artifact; None: training was not tracked."""
    if run_id is not None:
        MlflowClient().log_artifact(run_id, str(report))


def log_items(client: MlflowClient, run_id: str, tables: Mapping[str, pd.DataFrame]) -> None:
    """Log the per-item results of each set to a run. They replace those of an earlier evaluation on a set of the same name."""
    with tempfile.TemporaryDirectory() as folder:
        for set_name, rows in tables.items():
            file = Path(folder) / f"{set_name}.csv"
            rows.to_csv(file, index=False)
            client.log_artifact(run_id, str(file), FOLDER)


def fetch_items(client: MlflowClient, run_id: str, set_name: str) -> ItemResults | None:
    """Return the per-item results of a run's model on a set; None where there are none.

    Raises:
        ConfigError: the file is damaged.
        mlflow.exceptions.MlflowException: the server does not answer.
    """
    name = f"{FOLDER}/{set_name}.csv"
    if name not in list_item_files(client, run_id):
        return None
    with tempfile.TemporaryDirectory() as folder:
        return read_items(Path(client.download_artifacts(run_id, name, folder)))


def list_item_files(client: MlflowClient, run_id: str) -> list[str]:
    """Return the paths of a run's artifacts with per-item results."""
    try:
        return [file.path for file in client.list_artifacts(run_id, FOLDER)]
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []
