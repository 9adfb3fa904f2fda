"""The model that a training starts from or that is evaluated, found by path, registry address or run."""

import re
from pathlib import Path

from clips_pipeline.config import ConfigError

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_ADDRESS = re.compile(r"(models|runs):/")


def find_folder(start: str, key: str = "train.model.initial_weights") -> Path:
    """The folder of the model that `start` names.

    Args:
        start: a folder; `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/ID/PATH`; or the id of an MLflow run, which
            stands for the newest version registered from it.
        key: of the parameter, for messages.

    Raises:
        ConfigError: MLflow has no such model.
    """
    if not _RUN_ID.fullmatch(start) and not _ADDRESS.match(start):
        return Path(start)
    import mlflow
    from mlflow.exceptions import MlflowException

    from clips_pipeline.registry.packaging import fetch_model_folder

    address = start
    try:
        if _RUN_ID.fullmatch(start):
            versions = mlflow.MlflowClient().search_model_versions(f"run_id = '{start}'")
            if not versions:
                raise ConfigError(
                    f"{key}: no model was registered from MLflow run {start}; run "
                    "`kedro run --pipelines register`, or give the folder of the exported model"
                )
            newest = max(versions, key=lambda version: int(version.version))
            address = f"models:/{newest.name}/{newest.version}"
        return fetch_model_folder(address)
    except MlflowException as error:
        raise ConfigError(f"{key}: {start}: MLflow has no such model ({error.message})") from None
