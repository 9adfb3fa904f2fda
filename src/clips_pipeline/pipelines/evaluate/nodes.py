"""Node of the `evaluate` pipeline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from clips_pipeline.config import to_mapping
from clips_pipeline.evaluation.per_item.item_table import COMPOSITIONALITY_COLUMNS, spreadsheet_safe, tables_by_set
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.reports.model.figures import rank_figure
from clips_pipeline.reports.model.pages import write_evaluation


def evaluate(
    parameters: dict[str, Any],
    model_folder: Path,
    shards: Path,
    remote: Any,
    mlflow_run: dict[str, Any],
    paths: Mapping[str, Path],
) -> tuple[dict[str, float], pd.DataFrame, pd.DataFrame, dict[str, Any], Path, Path]:
    """Evaluate the exported model and log metrics and report to the MLflow run of its training.

    Results of another model, selected by `evaluate.model`, are logged to the active run, and `register` refuses them.

    Returns:
        metrics, one row per image, one row per entry of SugarCrepe and Winoground, report data, and the paths of the HTML
        report and of the figure.
    """
    # Imported here because they load torch or MLflow.
    from clips_pipeline.evaluation.evaluate import evaluate_model
    from clips_pipeline.registry.tracking.data_inputs import check_same_data, log_data
    from clips_pipeline.registry.tracking.evaluation_log import existing_run_id, log_evaluation
    from clips_pipeline.registry.tracking.runs import active_run_id
    from clips_pipeline.registry.versions.packaging import resolve_model_folder

    config = typed("evaluate", parameters)
    if config.model is None:
        run_id = existing_run_id(mlflow_run["run_id"])
    else:
        model_folder, run_id = resolve_model_folder(config.model, "evaluate.model"), active_run_id()
    check_same_data(run_id, shards, config.split, config.set_name)
    result = evaluate_model(
        model_folder, shards, config, remote, paths["embeddings"] if config.keep_embeddings else None
    )
    report, figure = paths["evaluation_report"], paths["rank_figure"]
    write_evaluation(result, report)
    figure.write_bytes(rank_figure(result.per_item))
    items = spreadsheet_safe(pd.DataFrame(result.per_item))
    # Without configured sets the table has headers only, since Kedro saves every output of a node.
    entries = spreadsheet_safe(pd.DataFrame(result.compositionality, columns=list(COMPOSITIONALITY_COLUMNS)))
    log_data(run_id, shards, [config.split], config.set_name)
    log_evaluation(run_id, result.metrics, report, tables_by_set(result.set_name, items, entries), model_folder)
    return result.metrics, items, entries, to_mapping(result.report_data), report, figure
