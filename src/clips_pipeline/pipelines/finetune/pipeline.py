"""From a low-resolution model to a fine-tuned one at a higher resolution, evaluated and registered under names of its own."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.evaluate.pipeline import create_pipeline as evaluate
from clips_pipeline.pipelines.finetune import nodes
from clips_pipeline.pipelines.register.pipeline import create_pipeline as register

INPUTS = ["params:finetune", "params:train", "shards", "tokenizer", "remote_shards", "paths"]
"""Inputs of `nodes.finetune`, in order."""

FINETUNED_NAMES = {
    "clips_model": "finetuned_model",
    "mlflow_run": "finetuned_mlflow_run",
    "metrics": "finetuned_metrics",
    "per_item": "finetuned_per_item",
    "compositionality_per_item": "finetuned_compositionality_per_item",
    "evaluation_report": "finetuned_report",
    "report_data": "finetuned_report_data",
    "rank_figure": "finetuned_rank_figure",
    "training_history": "finetuned_history",
    "registered_model": "finetuned_registered_model",
    "model_card": "finetuned_model_card",
    "model_report": "finetuned_model_report",
}
"""Catalog entries of `evaluate` and `register`, mapped to the ones that this pipeline uses instead."""

FINETUNED_PATHS = "finetuned_paths"
"""Name of the catalog entry like `paths`, with the entries of `FINETUNED_NAMES`."""


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that makes `finetuned_model`, evaluates and registers it."""
    outputs = ["finetuned_model", "finetuned_mlflow_run", "finetuned_history"]
    others = evaluate() + register()
    free = {name for name in others.inputs() if not name.startswith("params:")}
    return Pipeline([Node(nodes.finetune, INPUTS, outputs, name="finetune_node")], tags="finetune") + Pipeline(
        others,
        namespace="finetuned",
        inputs={name: FINETUNED_PATHS if name == "paths" else FINETUNED_NAMES.get(name, name) for name in free},
        outputs={name: own for name, own in FINETUNED_NAMES.items() if name not in free},
        parameters={name for name in others.inputs() if name.startswith("params:")},
        tags="finetune",
    )
