"""Per-item results as artifacts of the run that trained the model, so that any two versions can be compared item by item."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.evaluation.item_table import read_items
from clips_pipeline.evaluation.items import Items

FOLDER = "per_item"


def log_items(client: MlflowClient, run_id: str, tables: Mapping[str, pd.DataFrame]) -> None:
    """Keep the results on each set with a run; those of an earlier evaluation on a set of this name are replaced."""
    with tempfile.TemporaryDirectory() as folder:
        for set_name, rows in tables.items():
            file = Path(folder) / f"{set_name}.csv"
            rows.to_csv(file, index=False)
            client.log_artifact(run_id, str(file), FOLDER)


def fetch_items(client: MlflowClient, run_id: str, set_name: str) -> Items | None:
    """The results of a run's model on a set; None where there are none.

    Raises:
        ConfigError: the file is there but is damaged.
        mlflow.exceptions.MlflowException: the server does not answer.
    """
    name = f"{FOLDER}/{set_name}.csv"
    if name not in sets_of(client, run_id):
        return None
    with tempfile.TemporaryDirectory() as folder:
        return read_items(Path(client.download_artifacts(run_id, name, folder)))


def sets_of(client: MlflowClient, run_id: str) -> list[str]:
    """Artifacts of per-item results that a run has."""
    try:
        return [file.path for file in client.list_artifacts(run_id, FOLDER)]
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []
