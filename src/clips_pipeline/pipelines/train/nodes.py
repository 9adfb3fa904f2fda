"""The training node: write the run spec, start the launcher, record events. The training runs in other processes."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from clips_pipeline.data.shards.index import load_index
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.events.event_log import read_all
from clips_pipeline.training.events.history import history
from clips_pipeline.training.events.progress import Progress
from clips_pipeline.training.launch.launcher import launch
from clips_pipeline.training.resolve import check_training
from clips_pipeline.training.resume.initial_weights import keep_copy
from clips_pipeline.training.resume.run_folder import choose_run_folder, files_digest
from clips_pipeline.training.run_spec import RunSpec

log = logging.getLogger(__name__)


def build_run_spec(
    config: TrainConfig, shards: Path, tokenizer: Path, remote: Any, runs_folder: Path, model_folder: Path
) -> RunSpec:
    """Return the run spec of this training on these shards, without a run folder (`run_folder.choose_run_folder` sets it).

    Initial weights are resolved, wherever they are, and kept among the runs.
    """
    if config.model.initial_weights:
        from clips_pipeline.registry.versions.packaging import resolve_model_folder

        folder = keep_copy(resolve_model_folder(config.model.initial_weights), runs_folder / "initial", tokenizer)
        config = replace(config, model=replace(config.model, initial_weights=str(folder)))
    return RunSpec(
        train=config,
        shards=str(shards),
        tokenizer=str(tokenizer),
        run_folder="",
        model_folder=str(model_folder),
        data_version=load_index(shards).version,
        tokenizer_version=files_digest(tokenizer),
        storage=remote.storage.config,
        shard_cache=str(remote.folder),
    )


def train(
    parameters: dict[str, Any], shards: Path, tokenizer: Path, remote: Any, paths: Mapping[str, Path]
) -> tuple[Path, dict[str, Any], pd.DataFrame]:
    """Train, or resume an interrupted training.

    Returns:
        the model folder, the id of the model's MLflow run, and one row per logged step or evaluation.
    """
    runs, model = paths["training_runs"], paths["clips_model"]
    spec = build_run_spec(typed("train", parameters), shards, tokenizer, remote, runs, model)
    run, table = train_spec(choose_run_folder(spec, runs), remote)
    return model, {**run, "parameters": {"train": parameters}}, table


def train_spec(spec: RunSpec, remote: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    """Run a training under the active MLflow run, and return what identifies the run, and its history."""
    # Imported here: MLflow takes a second to import.
    from clips_pipeline.registry.tracking.data_inputs import log_data
    from clips_pipeline.registry.tracking.logged_models import log_checkpoints, log_exported
    from clips_pipeline.registry.tracking.run_tracking import RunTracker
    from clips_pipeline.registry.tracking.runs import active_run_id

    check_training(spec.train, Path(spec.shards), load_tokenizer(Path(spec.tokenizer)).vocab_size)
    log_data(active_run_id(), Path(spec.shards), ("train", "validation"))
    with RunTracker(Path(spec.run_folder)) as tracker, Progress(spec.train.steps) as progress:

        def on_event(event: dict[str, Any]) -> None:
            progress.show(event)
            tracker.record(event)

        launch(spec, on_event, tracker.reader(spec.events), remote.storage.options)
    events = read_all(spec.events)
    log_checkpoints(tracker.run_id, Path(spec.run_folder) / "checkpoints", events)
    log_exported(tracker.run_id, Path(spec.model_folder))
    for name, count in tracker.skipped.items():
        log.warning("skipped %d training samples: %s", count, name)
    return {"run_id": tracker.run_id, "spec": spec.fingerprint}, history(events)


def interrupted_run_id(spec: RunSpec) -> str | None:
    """Return the MLflow run of an earlier start of this training, or None."""
    file = Path(spec.run_folder) / "mlflow_run.json"
    if not file.is_file():
        return None
    run_id: str = json.loads(file.read_text())["run_id"]
    return run_id
