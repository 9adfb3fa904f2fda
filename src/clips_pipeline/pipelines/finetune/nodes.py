"""The fine-tuning node: a training that starts from an exported model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from clips_pipeline.config import from_mapping
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.pipelines.train.nodes import build_run_spec, train_spec
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.resume.run_folder import choose_run_folder
from clips_pipeline.training.run_spec import RunSpec


def build_finetune_spec(
    parameters: dict[str, Any],
    train_parameters: dict[str, Any],
    shards: Path,
    tokenizer: Path,
    remote: Any,
    paths: Mapping[str, Path],
) -> RunSpec:
    """Return the run spec of the fine-tuning, without a run folder.

    The trained model may be absent, because the configuration may name other initial weights.
    """
    merged = typed("finetune", parameters).parameters(train_parameters, str(paths["clips_model"]))
    config = from_mapping(TrainConfig, merged, "finetune.train")
    return build_run_spec(config, shards, tokenizer, remote, paths["training_runs"], paths["finetuned_model"])


def finetune(
    parameters: dict[str, Any],
    train_parameters: dict[str, Any],
    shards: Path,
    tokenizer: Path,
    remote: Any,
    paths: Mapping[str, Path],
) -> tuple[Path, dict[str, Any], pd.DataFrame]:
    """Fine-tune, or resume an interrupted fine-tuning.

    Returns:
        the model folder, the id of the model's MLflow run, and one row per logged step or evaluation.
    """
    spec = build_finetune_spec(parameters, train_parameters, shards, tokenizer, remote, paths)
    run, table = train_spec(choose_run_folder(spec, paths["training_runs"]), remote)
    used = {"train": train_parameters, "finetune": parameters}
    return paths["finetuned_model"], {**run, "parameters": used}, table
