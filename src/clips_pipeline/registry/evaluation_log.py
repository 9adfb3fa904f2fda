"""Final metrics and report to MLflow."""

import logging
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.registry.active_run import active_run_id
from clips_pipeline.registry.items_log import log_items
from clips_pipeline.registry.names import mlflow_key

log = logging.getLogger(__name__)


def log_evaluation(
    run_id: str | None, metrics: dict[str, float], report: Path, items: Mapping[str, pd.DataFrame]
) -> None:
    """Put the final metrics, the per-item results of each set and the report on the run that trained the model.

    A model may come from elsewhere (`dvc pull`) and this tracking server not know its run: then the active run takes them.
    `run_id` is None where training was not tracked; then, or without an active run, nothing is logged.
    """
    client = MlflowClient()
    if run_id is not None and not _is_known(client, run_id):
        log.warning("the MLflow run %s of this model is not on %s", run_id, mlflow.get_tracking_uri())
        run_id = active_run_id()
    if run_id is None:
        return
    for name, value in metrics.items():
        client.log_metric(run_id, mlflow_key(name), value)
    client.log_artifact(run_id, str(report))
    log_items(client, run_id, items)


def _is_known(client: MlflowClient, run_id: str) -> bool:
    try:
        client.get_run(run_id)
    except MlflowException as error:
        # Any other trouble (a server that does not answer) must not pass for a run that is gone.
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def log_report(run_id: str | None, report: Path) -> None:
    """Put a report on a run as an artifact; None: training was not tracked."""
    if run_id is not None:
        MlflowClient().log_artifact(run_id, str(report))
