"""One model, one run, one version: metrics and parameters joined, and the alias moved if the gate agrees.

All goes to the tracking and registry URIs that mlflow is set to (kedro-mlflow sets them from `conf/*/mlflow.yml`).
"""

import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError
from clips_pipeline.registry.gate import Decision, decide
from clips_pipeline.registry.lineage import folder_digest
from clips_pipeline.registry.names import flatten, mlflow_key
from clips_pipeline.registry.packaging import log_package

log = logging.getLogger(__name__)

MODEL_DIGEST = "model.sha256"
GATE_DECISION = "gate.decision"
GATE_REASON = "gate.reason"
_METRIC = "metric."
_LONGEST_PARAMETER = 6000


@dataclass(frozen=True)
class RegistryConfig:
    """Where models go and what decides.

    Attributes:
        name: the registered model; no '/' and no ':'.
        alias: what production loads (`models:/<name>@<alias>`).
        metric: the key of `metrics.json` by which models are compared; more is better.
    """

    name: str = "clips"
    alias: str = "champion"
    metric: str = "retrieval/scenes/mean_recall@1"

    def __post_init__(self) -> None:
        if not self.name.strip() or re.search(r"[/:]", self.name):
            raise ConfigError(f"name: {self.name!r} must not be empty or contain '/' or ':'")
        if not re.fullmatch(r"[A-Za-z][\w-]*", self.alias) or re.fullmatch(r"(?i)latest|v\d+", self.alias):
            raise ConfigError(f"alias: {self.alias!r} must start with a letter and be neither 'latest' nor like 'v1'")


@dataclass(frozen=True)
class Registration:
    """What happened.

    Attributes:
        name, version, run_id: of the registered model.
        uri: this version, `models:/<name>/<version>`.
        promoted: whether the alias points to this version now.
        reason: why, in a sentence.
        champion_uri: what `models:/<name>@<alias>` means now, as a version; None where no version has the alias.
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
    parameters: Mapping[str, Any] | None = None,
) -> Registration:
    """Register the exported model as a new version, and give it the alias if the gate lets it.

    Registering the same model of the same run again finds the version it made before, also after a crash half-way.

    Args:
        model_folder: what `train` exported.
        metrics: flat numbers, as in `metrics.json`.
        run_id: the run that trained the model, which is continued; None means the active run, or a new one.
        config: names and the deciding metric.
        parameters: nested parameters; logged to the run flat, where it does not have them yet.

    Raises:
        ConfigError: no model in the folder, a metric that is not finite, or an unknown run.
    """
    config = config or RegistryConfig()
    bad = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if bad:
        raise ConfigError(f"metrics that are not finite numbers cannot be registered: {', '.join(bad)}")
    decide(config.metric, metrics, None)
    client = MlflowClient()
    digest = folder_digest(model_folder)
    with _run(client, run_id) as active:
        log_parameters(client, active, parameters or {})
        tags = {mlflow_key(_METRIC + name): repr(float(value)) for name, value in metrics.items()} | {
            MODEL_DIGEST: digest
        }
        version = _same_version(client, config.name, active, digest)
        if version is None:
            info = log_package(model_folder, name=config.name)
            mlflow.log_metrics({mlflow_key(name): value for name, value in metrics.items()}, model_id=info.model_id)
            version = int(mlflow.register_model(info.model_uri, config.name, tags=tags).version)
        else:
            mlflow.log_metrics({mlflow_key(name): value for name, value in metrics.items()})
            for key, value in tags.items():
                client.set_model_version_tag(config.name, str(version), key, value)
    decision = _promote(client, config, version, metrics)
    champion = _champion(client, config)
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
    """Log nested parameters as `a.b.c`; those the run has already stay, and a different value is only warned about.

    MLflow refuses to change a parameter, and the values logged while training are the ones that made the model.
    """
    known = client.get_run(run_id).data.params
    for key, value in flatten(parameters).items():
        name, text = mlflow_key(key), str(value)[:_LONGEST_PARAMETER]
        if name not in known:
            client.log_param(run_id, name, text)
        elif known[name] != text:
            log.warning("run %s keeps parameter %s = %s; now it is %s", run_id, name, known[name], text)


@contextmanager
def _run(client: MlflowClient, run_id: str | None) -> Iterator[str]:
    active = mlflow.active_run()
    if active is not None and run_id in (None, active.info.run_id):
        # Kedro's own run: it is kedro-mlflow that ends it.
        yield str(active.info.run_id)
        return
    if run_id is not None:
        _check_run(client, run_id)
    with mlflow.start_run(run_id=run_id, nested=active is not None) as run:
        yield str(run.info.run_id)


def _check_run(client: MlflowClient, run_id: str) -> None:
    remedy = "train again, or point the tracking URI in conf/<env>/mlflow.yml to the server that has it"
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise ConfigError(f"MLflow run {run_id} of this model: {error.message}; {remedy}") from None
    if run.info.lifecycle_stage != "active":
        raise ConfigError(f"MLflow run {run_id} of this model was deleted; restore it with `mlflow runs restore`")


def _same_version(client: MlflowClient, name: str, run_id: str, digest: str) -> int | None:
    for version in client.search_model_versions(f"name='{name}'"):
        if version.run_id == run_id and version.tags.get(MODEL_DIGEST) == digest:
            return int(version.version)
    return None


def _promote(client: MlflowClient, config: RegistryConfig, version: int, metrics: Mapping[str, float]) -> Decision:
    champion = _champion(client, config)
    if champion == version:
        # Registered twice: it must not have to beat itself, and its first reason stays.
        tags = client.get_model_version(config.name, str(version)).tags
        return Decision(True, tags.get(GATE_REASON, "is the champion"))
    decision = decide(config.metric, metrics, _metrics_of(client, config, champion))
    client.set_model_version_tag(config.name, str(version), GATE_REASON, decision.reason)
    client.set_model_version_tag(config.name, str(version), GATE_DECISION, "promoted" if decision.promote else "kept")
    if decision.promote:
        client.set_registered_model_alias(config.name, config.alias, str(version))
    return decision


def _champion(client: MlflowClient, config: RegistryConfig) -> int | None:
    version = client.get_registered_model(config.name).aliases.get(config.alias)
    return None if version is None else int(version)


def _metrics_of(client: MlflowClient, config: RegistryConfig, version: int | None) -> dict[str, float] | None:
    if version is None:
        return None
    value = client.get_model_version(config.name, str(version)).tags.get(mlflow_key(_METRIC + config.metric))
    return {} if value is None else {config.metric: float(value)}
