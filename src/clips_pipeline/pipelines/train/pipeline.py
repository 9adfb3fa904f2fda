"""From shards and parameters to an exported model."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.train import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that makes `clips_model`, the id of its MLflow run and its training history."""
    inputs = ["params:train", "shards", "tokenizer", "remote_shards", "paths"]
    outputs = ["clips_model", "mlflow_run", "training_history"]
    return Pipeline([Node(nodes.train, inputs, outputs, name="train_node")], tags="train")
