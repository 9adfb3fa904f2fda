"""Dry run: `kedro run --pipelines train --params dry_run=true` prints the cost estimate of a training and exits."""

from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from rich.console import Console

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.storage.urls import is_remote
from clips_pipeline.models.sizes import resolve_size
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer, load_tokenizer
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.cost import read_captions, tokenized_rows
from clips_pipeline.training.estimate import estimate, estimate_table

KEY = "dry_run"
"""A top-level parameter, outside the groups."""


def is_requested(catalog: CatalogProtocol[Any, Any]) -> bool:
    """Return whether this run is a dry run.

    Raises:
        ConfigError: the parameter is neither true nor false.
    """
    value = catalog.load("parameters").get(KEY, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{KEY}: expected true or false, found {value!r}")
    return value


def show(pipeline: Pipeline, catalog: CatalogProtocol[Any, Any], console: Console | None = None) -> None:
    """Print the estimate of the pipeline's training.

    Raises:
        ConfigError: the pipeline contains no training.
    """
    names = {node.name for node in pipeline.nodes}
    parameters = catalog.load("params:train") if {"train_node", "finetune_node"} & names else None
    if parameters is None:
        raise ConfigError(f"{KEY}: this pipeline contains no training; use it with train, pretrain or finetune")
    if "finetune_node" in names:
        parameters = typed("finetune", catalog.load("params:finetune")).parameters(parameters, "")
    config = from_mapping(TrainConfig, parameters, "train")
    # Before `prepare` has run, assume the model size's full vocabulary.
    size = resolve_size(config.model.size).text.vocab_size
    tokenizer = load_tokenizer(catalog.load("tokenizer")) if catalog.exists("tokenizer") else None
    rows = None
    if tokenizer is not None and catalog.exists("shards"):
        rows = _rows(config, catalog.load("shards"), tokenizer)
    result = estimate(config, size if tokenizer is None else tokenizer.vocab_size, rows)
    (console or Console()).print(estimate_table(result, config))


def _rows(config: TrainConfig, shards: Path, tokenizer: Tokenizer) -> list[tuple[list[int], ...]] | None:
    """Return text rows of the first training samples; None where they are remote, because a dry run downloads nothing."""
    if any(is_remote(shard.path) for shard in load_index(shards).splits.get("train", ())):
        return None
    return tokenized_rows(config, read_captions(shards, None), tokenizer)
