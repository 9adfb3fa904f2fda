"""The `evaluate` pipeline: from the exported model to metrics and report."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.evaluate import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """Create the pipeline from `clips_model` and the test split to metrics, per-item results, report data and HTML report."""
    inputs = ["params:evaluate", "clips_model", "shards", "remote_shards", "mlflow_run", "paths"]
    outputs = ["metrics", "per_item", "compositionality_per_item", "report_data", "evaluation_report", "rank_figure"]
    return Pipeline([Node(nodes.evaluate, inputs, outputs, name="evaluate_node")], tags="evaluate")
