"""The `export_benchmark` pipeline: prepared shards to a dataset in the layout of CLIP_benchmark."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.export_benchmark import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that makes `clip_benchmark_set` from a split of `shards`."""
    inputs = ["params:export_benchmark", "shards", "remote_shards", "paths"]
    node = Node(nodes.export, inputs, "clip_benchmark_set", name="export_benchmark_node")
    return Pipeline([node], tags="export_benchmark")
