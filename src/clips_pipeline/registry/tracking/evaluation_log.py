"""Results of an evaluation in MLflow: final metrics, report, and per-item results, so that any two versions can be compared."""

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
    """The run that takes the results of a model.

    A model may come from elsewhere (`dvc pull`) and this tracking server not know its run: then the active run takes them.

    Args:
        run_id: of the training; None where it was not tracked.
    """
    if run_id is None:
        return None
    try:
        with config_error_if_missing(f"the MLflow run {run_id} of this model is not on {mlflow.get_tracking_uri()}"):
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
    """Put the final metrics, the per-item results of each set and the report on a run, and the metrics on its LoggedModel.

    Args:
        run_id: as `existing_run_id` gives it; None: nothing is logged.
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
    """Put a report on a run as an artifact; None: training was not tracked."""
    if run_id is not None:
        MlflowClient().log_artifact(run_id, str(report))


def log_items(client: MlflowClient, run_id: str, tables: Mapping[str, pd.DataFrame]) -> None:
    """Keep the results on each set with a run; those of an earlier evaluation on a set of this name are replaced."""
    with tempfile.TemporaryDirectory() as folder:
        for set_name, rows in tables.items():
            file = Path(folder) / f"{set_name}.csv"
            rows.to_csv(file, index=False)
            client.log_artifact(run_id, str(file), FOLDER)


def fetch_items(client: MlflowClient, run_id: str, set_name: str) -> ItemResults | None:
    """The results of a run's model on a set; None where there are none.

    Raises:
        ConfigError: the file is there but is damaged.
        mlflow.exceptions.MlflowException: the server does not answer.
    """
    name = f"{FOLDER}/{set_name}.csv"
    if name not in list_item_files(client, run_id):
        return None
    with tempfile.TemporaryDirectory() as folder:
        return read_items(Path(client.download_artifacts(run_id, name, folder)))


def list_item_files(client: MlflowClient, run_id: str) -> list[str]:
    """Artifacts of per-item results that a run has."""
    try:
        return [file.path for file in client.list_artifacts(run_id, FOLDER)]
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []
