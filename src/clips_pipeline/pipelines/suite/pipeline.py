"""The `suite` pipeline: models on all sets of a suite to one table of results."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.suite import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that makes `suite_report`, of the trained model or of those that the parameters name."""
    inputs = ["params:suite", "remote_shards", "paths"]
    return Pipeline([Node(nodes.suite, inputs, "suite_report", name="suite_node")], tags="suite")
