"""The evaluation node."""

from pathlib import Path
from typing import Any

import pandas as pd


def evaluate(
    parameters: dict[str, Any],
    model_folder: Path,
    shards: Path,
    remote: Any,
    mlflow_run: dict[str, Any],
    report: Path,
) -> tuple[dict[str, float], pd.DataFrame, Path]:
    """Evaluate the exported model, and log metrics and report to the MLflow run that trained it.

    Returns:
        the flat metrics, one row per image or caption, and the path of the HTML report.
    """
    from clips_pipeline.evaluation.evaluate import evaluate_model
    from clips_pipeline.evaluation.report import write_report
    from clips_pipeline.pipelines.parameters import typed
    from clips_pipeline.registry.evaluation_log import log_evaluation

    result = evaluate_model(model_folder, shards, typed("evaluate", parameters), remote)
    path = write_report(result, report.parent)
    items = pd.DataFrame(result.per_item)
    log_evaluation(mlflow_run["run_id"], result.set_name, result.metrics, path, items)
    return result.metrics, items, path
