"""The `embed` pipeline: shards or folders to a table of embeddings."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.embed import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that makes `embedding_table`; its parameters name data and model, by default those of the project."""
    inputs = ["params:embed", "remote_shards", "paths"]
    return Pipeline([Node(nodes.embed, inputs, "embedding_table", name="embed_node")], tags="embed")
