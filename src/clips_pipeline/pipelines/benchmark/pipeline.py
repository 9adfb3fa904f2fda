"""The `benchmark` pipeline: evaluate an existing model on another set."""

from typing import Any

from kedro.pipeline import Pipeline

from clips_pipeline.pipelines.evaluate.pipeline import create_pipeline as evaluate
from clips_pipeline.pipelines.prepare.pipeline import create_pipeline as prepare


def create_pipeline(**options: Any) -> Pipeline:
    """Create the pipeline from the shards node of `prepare` (without tokenizer and report) and all of `evaluate`."""
    return prepare().only_nodes("prepare_shards_node") + evaluate()
