"""The registration node."""

from pathlib import Path
from typing import Any


def register(
    parameters: dict[str, Any], model_folder: Path, metrics: dict[str, float], mlflow_run: dict[str, Any]
) -> dict[str, Any]:
    """Register the model as a new version of the registry, in the MLflow run that trained it."""
    from clips_pipeline.config import to_mapping
    from clips_pipeline.pipelines.parameters import typed
    from clips_pipeline.registry.register import register_model

    registration = register_model(
        model_folder,
        metrics,
        run_id=mlflow_run["run_id"],
        config=typed("register", parameters),
        parameters=mlflow_run["parameters"],
    )
    return to_mapping(registration)
