"""A trained model ready for use, from a folder or from MLflow. `clips_pipeline.load` is the way in."""

import re
from pathlib import Path

from clips_pipeline.interop.folder import LoadedModel, load_model_folder

# Two letters at least, so that a Windows drive is not taken for a scheme.
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")


def load_model(path_or_uri: str | Path) -> LoadedModel:
    """Model, image transform and tokenizer.

    Args:
        path_or_uri: an exported folder (`data/06_models/clips`), the folder of an MLflow model, or an MLflow URI:
            `models:/clips@champion`, `models:/clips/3`, `runs:/<run id>/clips`.

    Raises:
        ConfigError: no model there, or one that this project did not make.
        mlflow.exceptions.MlflowException: MLflow knows no such model.
    """
    text = str(path_or_uri)
    if _URI.match(text) or (Path(text) / "MLmodel").is_file():
        # Here, because a folder needs no mlflow, and importing it takes over a second.
        from clips_pipeline.registry.packaging import fetch_model_folder

        return load_model_folder(fetch_model_folder(text))
    return load_model_folder(Path(text))
