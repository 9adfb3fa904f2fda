"""The `recaption` pipeline: shards or folders to the same samples with new synthetic captions."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.recaption import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that makes `recaptioned`; from `shards` and `clips_model`, or others."""
    inputs = ["params:recaption", "clips_model", "shards", "remote_shards", "paths"]
    return Pipeline([Node(nodes.recaption, inputs, "recaptioned", name="recaption_node")], tags="recaption")
