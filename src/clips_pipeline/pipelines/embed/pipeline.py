"""The `embed` pipeline: shards or folders to a table of embeddings."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.embed import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that makes `embedding_table`; from `shards` and `clips_model`, or others."""
    inputs = ["params:embed", "clips_model", "shards", "remote_shards", "paths"]
    return Pipeline([Node(nodes.embed, inputs, "embedding_table", name="embed_node")], tags="embed")
