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
    figure: Path,
) -> tuple[dict[str, float], pd.DataFrame, dict[str, Any], Path, Path]:
    """Evaluate the exported model, and log metrics and report to the MLflow run that trained it.

    Returns:
        the flat metrics, one row per image, what the reports show, and the paths of the HTML report and of the figure.
    """
    from clips_pipeline.config import to_mapping
    from clips_pipeline.evaluation.evaluate import evaluate_model
    from clips_pipeline.evaluation.report import rank_figure, write_evaluation
    from clips_pipeline.pipelines.parameters import typed
    from clips_pipeline.registry.evaluation_log import log_evaluation

    result = evaluate_model(model_folder, shards, typed("evaluate", parameters), remote)
    write_evaluation(result, report)
    figure.write_bytes(rank_figure(result.per_item))
    items = pd.DataFrame(result.per_item)
    log_evaluation(mlflow_run["run_id"], result.set_name, result.metrics, report, items)
    return result.metrics, items, to_mapping(result.exhibits), report, figure
