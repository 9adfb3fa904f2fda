"""From a model and its metrics to a registered MLflow model version."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.register import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that makes `registered_model` (name, version, alias and the gate's reason), model card and report."""
    measured = ["metrics", "per_item", "compositionality_per_item"]
    origin = ["mlflow_run", "training_history", "data_health", "shards", "paths"]
    register = ["params:register", "clips_model", *measured, *origin]
    report = ["params:register", "registered_model", *measured, "report_data", *origin]
    return Pipeline(
        [
            Node(nodes.register, register, ["registered_model", "model_card"], name="register_node"),
            Node(nodes.report, report, "model_report", name="report_node"),
        ],
        tags="register",
    )
