"""Shards to an evaluation set of CLIP_benchmark."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.export_benchmark import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """`clip_benchmark_set` from a split of `shards`."""
    return Pipeline(
        [
            Node(
                nodes.export,
                ["params:export_benchmark", "shards", "remote_shards", "paths"],
                "clip_benchmark_set",
                name="export_benchmark_node",
            )
        ],
        tags="export_benchmark",
    )
