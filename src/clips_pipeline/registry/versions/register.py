"""Registration: one version per model and run, with metrics and parameters; the alias moves if the gate passes.

Everything is logged to mlflow's tracking and registry URIs, which kedro-mlflow sets from `conf/*/mlflow.yml`.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError, flatten
from clips_pipeline.evaluation.metric_keys import set_of
from clips_pipeline.evaluation.results import MODEL
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.io.redact import redact
from clips_pipeline.registry.config import RegistryConfig as RegistryConfig
from clips_pipeline.registry.tracking.evaluation_log import fetch_items, log_items
from clips_pipeline.registry.tracking.logged_models import MODEL_DIGEST, get_or_create_logged_model
from clips_pipeline.registry.tracking.runs import log_final_metrics, mlflow_key
from clips_pipeline.registry.versions.champion import update_aliases, version_with_alias
from clips_pipeline.registry.versions.gate import Decision, ModelResults, check_metrics, decide
from clips_pipeline.registry.versions.packaging import log_package

log = logging.getLogger(__name__)

_METRIC = "metric."
_MAX_PARAMETER_LENGTH = 6000


@dataclass(frozen=True)
class Registration:
    """Result of a registration.

    Attributes:
        name, version, run_id: the registered version and its run.
        uri: URI of this version, `models:/<name>/<version>`.
        promoted: whether the alias now points to this version.
        reason: the gate's reason, as a sentence.
        champion_uri: URI of the version that now has the alias; None where no version has it.
    """

    name: str
    version: int
    run_id: str
    uri: str
    promoted: bool
    reason: str
    champion_uri: str | None


def register_model(
    model_folder: Path,
    metrics: Mapping[str, float],
    *,
    run_id: str | None = None,
    config: RegistryConfig | None = None,
    items: Mapping[str, pd.DataFrame] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Registration:
    """Register the exported model as a new version, and move the alias if the gate passes.

    Registering the same model of the same run again returns the existing version, also after a crash in between.

    Args:
        model_folder: the exported model folder.
        metrics: flat metrics, as in `metrics.json`.
        run_id: the run that trained the model; None uses the active run, or a new one.
        config: names, the deciding metric and the gate.
        items: per-item results by set, for this comparison and later ones.
        parameters: nested parameters, logged flat to the run where it does not have them yet.

    Raises:
        ConfigError: no model in the folder, results of another model, a metric that is not finite, or an unknown run.
    """
    config = config or RegistryConfig()
    digest = model_digest(model_folder)
    for table in (items or {}).values():
        _check_results_of_model(table, digest, model_folder)
    bad = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if bad:
        raise ConfigError(f"metrics: not finite numbers, so the model cannot be registered: {', '.join(bad)}")
    check_metrics(config.metric, config.gate, metrics)
    client = MlflowClient()
    with _training_run(client, run_id) as active:
        log_parameters(client, active, parameters or {})
        tags = {mlflow_key(_METRIC + name): repr(float(value)) for name, value in metrics.items()} | {
            MODEL_DIGEST: digest
        }
        model_id = get_or_create_logged_model(client, active, model_folder, digest)
        log_final_metrics(client, active, metrics, model_id)
        version = _same_version(client, config.name, active, digest)
        if version is None:
            log_package(model_folder, model_id, active)
            version = int(mlflow.register_model(f"models:/{model_id}", config.name, tags=tags).version)
        else:
            for key, value in tags.items():
                client.set_model_version_tag(config.name, str(version), key, value)
        log_items(client, active, items or {})

    def compare_versions(new: int, other: int | None) -> Decision:
        def results_of(version: int) -> ModelResults:
            return load_results(client, config.name, version, set_of(config.metric))

        return decide(config.metric, config.gate, results_of(new), None if other is None else results_of(other))

    decision = update_aliases(client, config, version, compare_versions)
    champion = version_with_alias(client, config.name, config.alias)
    return Registration(
        name=config.name,
        version=version,
        run_id=active,
        uri=f"models:/{config.name}/{version}",
        promoted=champion == version,
        reason=decision.reason,
        champion_uri=None if champion is None else f"models:/{config.name}/{champion}",
    )


def log_parameters(client: MlflowClient, run_id: str, parameters: Mapping[str, Any]) -> None:
    """Log nested parameters as `a.b.c`. Parameters that the run already has stay; a different value gives a warning.

    MLflow cannot change a parameter, and the values logged during the training are the ones that made the model.
    """
    results_of = client.get_run(run_id).data.params
    for key, value in flatten(parameters).items():
        name, text = mlflow_key(key), redact(str(value))[:_MAX_PARAMETER_LENGTH]
        if name not in results_of:
            client.log_param(run_id, name, text)
        elif results_of[name] != text:
            log.warning(
                "MLflow run %s keeps parameter %s = %s, although it is now %s", run_id, name, results_of[name], text
            )


def _check_results_of_model(items: pd.DataFrame, digest: str, model_folder: Path) -> None:
    measured_on = set(items[MODEL]) if MODEL in items else {digest}
    if measured_on != {digest}:
        raise ConfigError(
            f"{model_folder}: the metrics are not of this model, which has changed since, or evaluate.model named another one; "
            "nothing was registered. Run `kedro run --pipelines evaluate` again"
        )


@contextmanager
def _training_run(client: MlflowClient, run_id: str | None) -> Iterator[str]:
    active = mlflow.active_run()
    if active is not None and run_id in (None, active.info.run_id):
        # Kedro's own run: kedro-mlflow ends it.
        yield str(active.info.run_id)
        return
    if run_id is not None:
        _check_run(client, run_id)
    with mlflow.start_run(run_id=run_id, nested=active is not None) as run:
        yield str(run.info.run_id)


def _check_run(client: MlflowClient, run_id: str) -> None:
    remedy = "train again, or set the tracking URI in conf/<env>/mlflow.yml to the server that has it"
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise ConfigError(f"MLflow run {run_id} of this model: {error.message}; {remedy}") from None
    if run.info.lifecycle_stage != "active":
        raise ConfigError(f"MLflow run {run_id} of this model was deleted; restore it with `mlflow runs restore`")


def _same_version(client: MlflowClient, name: str, run_id: str, digest: str) -> int | None:
    versions = client.search_model_versions(f"name='{name}'")
    same = (version for version in versions if version.run_id == run_id and version.tags.get(MODEL_DIGEST) == digest)
    return next((int(version.version) for version in same), None)


def load_results(client: MlflowClient, name: str, version: int, set_name: str) -> ModelResults:
    """Return the stored results of a version: its metrics, and its run's per-item results on a set where there are any."""
    found = client.get_model_version(name, str(version))
    tagged = {key.removeprefix(_METRIC): value for key, value in found.tags.items() if key.startswith(_METRIC)}
    # MLflow does not allow '@' in names of tags.
    metrics = {key.replace("_at_", "@"): float(value) for key, value in tagged.items()}
    return ModelResults(metrics, fetch_items(client, found.run_id, set_name))
