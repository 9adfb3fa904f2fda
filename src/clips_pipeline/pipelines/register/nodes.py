"""Nodes of registration and of the model report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from clips_pipeline.config import from_mapping, to_mapping
from clips_pipeline.evaluation.metric_keys import split_set
from clips_pipeline.evaluation.per_item.item_table import tables_by_set
from clips_pipeline.pipelines.parameters import typed


def register(
    parameters: dict[str, Any],
    model_folder: Path,
    metrics: dict[str, float],
    per_item: pd.DataFrame,
    compositionality: pd.DataFrame,
    mlflow_run: dict[str, Any],
    history: pd.DataFrame,
    data_health: Path,
    shards: Path,
    paths: Mapping[str, Path],
) -> tuple[dict[str, Any], Path]:
    """Register the model as a new version with its model card, in the MLflow run that trained it.

    The run also gets the data health report. It is logged here, so that a changed report does not rerun the training.
    """
    # Imported here: MLflow takes a second to import.
    from clips_pipeline.registry.tracking.evaluation_log import log_report
    from clips_pipeline.registry.versions.model_card import write_card
    from clips_pipeline.registry.versions.register import register_model

    items = tables_by_set(split_set(metrics), per_item, compositionality)
    registration = register_model(
        model_folder,
        metrics,
        run_id=mlflow_run["run_id"],
        config=typed("register", parameters),
        items=items,
        parameters=mlflow_run["parameters"],
    )
    log_report(registration.run_id, data_health)
    card = paths["model_card"]
    write_card(registration, metrics, items, mlflow_run["parameters"], shards, history, card)
    return to_mapping(registration), card


def report(
    parameters: dict[str, Any],
    registered: dict[str, Any],
    metrics: dict[str, float],
    per_item: pd.DataFrame,
    compositionality: pd.DataFrame,
    report_data: dict[str, Any],
    mlflow_run: dict[str, Any],
    history: pd.DataFrame,
    data_health: Path,
    shards: Path,
    paths: Mapping[str, Path],
) -> Path:
    """Write the HTML report of the registered version."""
    from clips_pipeline.registry.versions.model_report import write_model_report
    from clips_pipeline.registry.versions.register import Registration

    return write_model_report(
        from_mapping(Registration, registered, "registered_model"),
        typed("register", parameters).metric,
        metrics,
        tables_by_set(split_set(metrics), per_item, compositionality),
        report_data,
        mlflow_run,
        history,
        data_health,
        shards,
        paths["model_report"],
    )
