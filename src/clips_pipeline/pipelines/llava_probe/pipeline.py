"""From shards and the study's trainings to the probe's tables, summary and figure."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.llava_probe import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that trains missing towers and probes, and makes their tables, summary and figure."""
    towers = Node(
        nodes.train_towers,
        [
            "params:llava_probe",
            "params:study",
            "params:train",
            "params:evaluate",
            "params:prepare.source",
            "shards",
            "tokenizer",
            "remote_shards",
            "paths",
        ],
        "llava_probe_towers",
        name="llava_probe_towers_node",
    )
    probes = Node(
        nodes.probe,
        ["params:llava_probe", "params:prepare.source", "shards", "remote_shards", "llava_probe_towers", "paths"],
        [
            "llava_probe_runs",
            "llava_probe_accuracy",
            "llava_probe_paired",
            "llava_probe_summary",
            "llava_probe_figure",
        ],
        name="llava_probe_node",
    )
    return Pipeline([towers, probes], tags="llava_probe")
