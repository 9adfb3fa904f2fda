"""Results of a suite in MLflow: metrics, the table in all its forms, and per-item results of each model and set."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from mlflow.tracking import MlflowClient

from clips_pipeline.evaluation.per_item.item_table import spreadsheet_safe
from clips_pipeline.evaluation.results import ItemRow
from clips_pipeline.registry.tracking.evaluation_log import FOLDER
from clips_pipeline.registry.tracking.runs import log_final_metrics

REPORT = "suite"


def log_suite(run_id: str | None, metrics: Mapping[str, float], report: Path) -> None:
    """Log metrics and the folder of reports to a run.

    Args:
        run_id: the run; None logs nothing.
        metrics: values by key; with several models behind the name of the model.
        report: folder of the reports.
    """
    if run_id is None:
        return
    client = MlflowClient()
    log_final_metrics(client, run_id, metrics)
    client.log_artifacts(run_id, str(report), REPORT)


def log_set_items(run_id: str | None, model: str | None, set_name: str, rows: Sequence[ItemRow]) -> None:
    """Log the per-item results of one set, as `evaluate` does, so that `kedro compare` can read them.

    Args:
        run_id: the run; None logs nothing.
        model: folder of the model, if the run has several models.
        set_name: name of the set.
        rows: per-item results.
    """
    if run_id is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{set_name}.csv"
        spreadsheet_safe(pd.DataFrame(rows)).to_csv(file, index=False)
        MlflowClient().log_artifact(run_id, str(file), FOLDER if model is None else f"{FOLDER}/{model}")
