"""One MLflow run per model: which run a `kedro run` continues."""

import logging
from pathlib import Path
from typing import Any

import mlflow
from kedro.framework.project import pipelines as registered
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from clips_pipeline.config import flatten
from clips_pipeline.pipelines.finetune.nodes import build_finetune_spec
from clips_pipeline.pipelines.finetune.pipeline import INPUTS
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.pipelines.prepare.nodes import is_current
from clips_pipeline.pipelines.train.nodes import build_run_spec, interrupted_run_id
from clips_pipeline.registry.tracking.trial_runs import load_parent
from clips_pipeline.training.launch.folder_lock import refuse_if_locked
from clips_pipeline.training.resume.run_folder import choose_run_folder

log = logging.getLogger(__name__)


def run_to_continue(pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> tuple[str, str] | None:
    """Return id and name of the run that made, or is making, this pipeline's model; None for a new run.

    An interrupted training continues in its run, and so does an interrupted search. `evaluate` and `register` continue
    the model's run.

    Raises:
        ConfigError: the training is already running, or an unfinished one differs in a parameter that may not change.
    """
    names = {node.name for node in pipeline.nodes}
    if names & {"train_node", "finetune_node"}:
        run_id = _interrupted_run(catalog, finetune="finetune_node" in names)
    elif "search_node" in names:
        run_id = load_parent(catalog.load("paths")["search_folder"], catalog.load("params:search")["study_name"])
    elif "evaluate_node" in names and catalog.load("params:evaluate").get("model") is not None:
        # Results of another model must not be logged to the run of the trained model.
        return None
    elif names & {"evaluate_node", "register_node", "report_node"} and catalog.exists("mlflow_run"):
        run_id = catalog.load("mlflow_run")["run_id"]
    else:
        return None
    if run_id is None or not _may_continue(run_id, pipeline, catalog):
        return None
    return run_id, mlflow.get_run(run_id).info.run_name


def run_name(
    pipelines: list[str] | None, environment: str | None, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
) -> str:
    """Return the name of a new run: pipelines, environment, and the method or the evaluation set."""
    names = {node.name for node in pipeline.nodes}
    # Kedro passes the pipelines of the command line in no stable order.
    order = list(registered)
    chosen = sorted(pipelines or ["pretrain"], key=lambda name: order.index(name) if name in order else len(order))
    parts = ["+".join(chosen), environment or "local"]
    if names & {"train_node", "finetune_node", "search_node"}:
        parts.append(catalog.load("params:train")["method"])
    elif "evaluate_node" in names:
        parts.append(catalog.load("params:evaluate")["set_name"])
    return " ".join(parts)


def _interrupted_run(catalog: CatalogProtocol[Any, Any], finetune: bool) -> str | None:
    """Return the run of an earlier start of this training, where there is one to continue."""
    if not (catalog.exists("shards") and catalog.exists("tokenizer")):
        return None
    remote, paths, shards = catalog.load("remote_shards"), catalog.load("paths"), catalog.load("shards")
    if finetune:
        spec = build_finetune_spec(*(catalog.load(name) for name in INPUTS))
    # If `prepare` will make other data, a training on the old data is a different one.
    elif is_current(catalog.load("params:prepare"), remote.storage, paths["caption_tables"], shards):
        config, tokenizer = typed("train", catalog.load("params:train")), catalog.load("tokenizer")
        spec = build_run_spec(config, shards, tokenizer, remote, paths["training_runs"], paths["clips_model"])
    else:
        return None
    # The node logs what the training resumes from.
    spec = choose_run_folder(spec, paths["training_runs"], announce=False)
    # Check before MLflow opens the run that the other process writes to.
    refuse_if_locked(Path(spec.run_folder))
    return interrupted_run_id(spec)


def _may_continue(run_id: str, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> bool:
    """Return whether the run still exists and its parameters have the same values; MLflow cannot change a parameter."""
    try:
        logged = mlflow.get_run(run_id).data.params
    except mlflow.exceptions.MlflowException:
        log.warning("MLflow run %s of this model does not exist any more; starting a new run", run_id)
        return False
    for name in pipeline.inputs():
        if not name.startswith("params:"):
            continue
        for key, value in flatten({name.removeprefix("params:"): catalog.load(name)}).items():
            if key in logged and logged[key] != str(value):
                log.warning(
                    "%s: was %s in MLflow run %s and is now %s; starting a new run", key, logged[key], run_id, value
                )
                return False
    return True
