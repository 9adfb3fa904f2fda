"""The fine-tuning node: the training of another stage, which begins with a model that is there."""

from pathlib import Path
from typing import Any

import pandas as pd

from clips_pipeline.training.spec import RunSpec


def stage_spec(
    parameters: dict[str, Any],
    train_parameters: dict[str, Any],
    shards: Path,
    tokenizer: Path,
    remote: Any,
    runs_folder: Path,
    pretrained: Path,
    model_folder: Path,
) -> RunSpec:
    """The run spec of the stage."""
    from clips_pipeline.pipelines.parameters import typed
    from clips_pipeline.pipelines.train.nodes import build_spec

    merged = typed("finetune", parameters).parameters(train_parameters, str(pretrained))
    return build_spec(merged, shards, tokenizer, remote, runs_folder, model_folder, where="finetune.train")


def finetune(
    parameters: dict[str, Any],
    train_parameters: dict[str, Any],
    shards: Path,
    tokenizer: Path,
    remote: Any,
    runs_folder: Path,
    pretrained: Path,
    model_folder: Path,
) -> tuple[Path, dict[str, Any], pd.DataFrame]:
    """Fine-tune, or go on with what was interrupted.

    Returns:
        the model folder, the id of the model's MLflow run, and one row per logged step or evaluation.
    """
    from clips_pipeline.pipelines.train.nodes import run_spec

    spec = stage_spec(parameters, train_parameters, shards, tokenizer, remote, runs_folder, pretrained, model_folder)
    run, table = run_spec(spec, remote)
    used = {"train": train_parameters, "finetune": parameters}
    return model_folder, {**run, "parameters": used}, table
