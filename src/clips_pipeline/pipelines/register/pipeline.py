"""Model and metrics to an MLflow model version."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.register import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """`registered_model`: name, version, alias and the reason for the alias decision; the model card; and the report."""
    return Pipeline(
        [
            Node(
                nodes.register,
                [
                    "params:register",
                    "clips_model",
                    "metrics",
                    "per_item",
                    "compositionality_per_item",
                    "mlflow_run",
                    "data_health",
                    "shards",
                    "training_history",
                    "paths",
                ],
                ["registered_model", "model_card"],
                name="register_node",
            ),
            Node(
                nodes.report,
                [
                    "params:register",
                    "registered_model",
                    "metrics",
                    "per_item",
                    "compositionality_per_item",
                    "exhibits",
                    "mlflow_run",
                    "training_history",
                    "data_health",
                    "shards",
                    "paths",
                ],
                "model_report",
                name="report_node",
            ),
        ],
        tags="register",
    )
