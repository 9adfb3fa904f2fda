"""Another set to the metrics of a model that is there already."""

from typing import Any

from kedro.pipeline import Pipeline

from clips_pipeline.pipelines.evaluate.pipeline import create_pipeline as evaluate
from clips_pipeline.pipelines.prepare.pipeline import create_pipeline as prepare


def create_pipeline(**options: Any) -> Pipeline:
    """The shards of `prepare`, without tokenizer and report, and all of `evaluate`."""
    return prepare().only_nodes("prepare_shards_node") + evaluate()
