"""The `prepare` pipeline: source to shards to tokenizer, and the data health report."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.prepare import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that makes `shards`, `tokenizer` and `data_health` (which reads `train.captions`)."""
    reported = ["params:prepare", "params:train.captions", "shards", "tokenizer", "remote_shards", "paths"]
    tokenized = ["params:prepare", "shards", "remote_shards", "paths"]
    return Pipeline(
        [
            Node(
                nodes.prepare_shards, ["params:prepare", "remote_shards", "paths"], "shards", name="prepare_shards_node"
            ),
            Node(nodes.make_tokenizer, tokenized, "tokenizer", name="make_tokenizer_node"),
            Node(nodes.report_health, reported, "data_health", name="report_health_node"),
        ],
        tags="prepare",
    )
