"""Model and metrics to an MLflow model version."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.register import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """`registered_model`: name, version, alias and the reason for the alias decision; and the model card."""
    return Pipeline(
        [
            Node(
                nodes.register,
                [
                    "params:register",
                    "clips_model",
                    "metrics",
                    "per_item",
                    "mlflow_run",
                    "data_health",
                    "shards",
                    "training_history",
                    "model_card_target",
                ],
                ["registered_model", "model_card"],
                name="register_node",
            )
        ],
        tags="register",
    )
