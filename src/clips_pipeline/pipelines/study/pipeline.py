"""From shards to the study's table, summary and figures."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.study import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that makes `study_runs`, its summary and figures."""
    inputs = ["params:study", "params:train", "params:evaluate", "shards", "tokenizer", "remote_shards", "paths"]
    outputs = ["study_runs", "study_summary", "study_lengths_figure", "study_methods_figure"]
    return Pipeline([Node(nodes.study, inputs, outputs, name="study_node")], tags="study")
