"""Results of the LLaVA probe in MLflow."""

from typing import Any

import mlflow
import pandas as pd

from clips_pipeline.registry.tracking.runs import active_run_id, log_final_metrics


def log_probe(table: pd.DataFrame, summary: str, figure: Any) -> None:
    """Log accuracies as metrics, and table, summary and figure as artifacts, to the active run; without one, nothing.

    Args:
        table: columns row, type, mean; one row per metric.
        summary: in Markdown.
        figure: of matplotlib.
    """
    if (run_id := active_run_id()) is None:
        return
    client = mlflow.MlflowClient()
    metrics = {f"llava/{line['row']}/{line['type']}_accuracy": line["mean"] for line in table.to_dict("records")}
    log_final_metrics(client, run_id, metrics)
    client.log_text(run_id, table.to_csv(index=False), "llava_probe/accuracy.csv")
    client.log_text(run_id, summary, "llava_probe/README.md")
    client.log_figure(run_id, figure, "llava_probe/accuracy.png")
