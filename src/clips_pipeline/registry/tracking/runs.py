"""Helpers for MLflow runs: process tags, final metrics, abandoned runs, and valid key names."""

import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlflow
import psutil
from mlflow.entities import Metric, RunStatus, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.registry.config import TrackingConfig

OWNER = "clips.process"
"""Tag of a run: host, process id and the process's start time, in seconds since 1970."""
# Tolerance: the start time of a process is computed from the boot time, which shifts when the clock is corrected.
_CLOCK_SECONDS = 5.0
_MAX_KEY_LENGTH = 250
_METRICS_PER_BATCH = 1000  # MLflow's servers refuse more


def active_run_id() -> str | None:
    """Return the id of the MLflow run that Kedro opened; None where there is none."""
    active = mlflow.active_run()
    return active.info.run_id if active else None


@contextmanager
def config_error_if_missing(message: str) -> Iterator[None]:
    """Turn MLflow's error for a missing resource into a `ConfigError` with this message."""
    try:
        yield
    except MlflowException as error:
        # Other errors (a server that does not answer) do not mean that the resource is missing.
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ConfigError(message) from None


def mlflow_key(name: str) -> str:
    """Return a name that MLflow accepts for metrics, parameters and tags: `recall@1` becomes `recall_at_1`, the rest `_`."""
    return re.sub(r"[^/\w.\- :]", "_", name.replace("@", "_at_"))[:_MAX_KEY_LENGTH]


def log_final_metrics(
    client: MlflowClient, run_id: str, metrics: Mapping[str, float], model_id: str | None = None
) -> None:
    """Log metrics that a run has once, such as the results of an evaluation or a search, at step 0.

    Values that the run already has are left out, so that a repeated command adds no second point.

    Args:
        client: client of the tracking server.
        run_id: id of the run.
        metrics: values by our names.
        model_id: the LoggedModel that the metrics belong to.
    """
    logged = client.get_run(run_id).data.metrics
    stamp = int(time.time() * 1000)
    points = [
        Metric(name, value, stamp, 0, model_id=model_id, run_id=run_id)
        for name, value in ((mlflow_key(key), float(value)) for key, value in metrics.items())
        if logged.get(name) != value
    ]
    for low in range(0, len(points), _METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=points[low : low + _METRICS_PER_BATCH])


def configure_system_metrics(parameters: Mapping[str, Any]) -> None:
    """Configure whether MLflow records CPU, memory, disk, network and GPUs while the next run is open.

    Raises:
        ConfigError: the group `tracking` is invalid.
    """
    config = from_mapping(TrackingConfig, parameters, "tracking")
    if config.system_metrics:
        mlflow.enable_system_metrics_logging()
        mlflow.set_system_metrics_sampling_interval(config.interval_s)
    else:
        mlflow.disable_system_metrics_logging()


def process_tag() -> str:
    """Return the value of the tag `OWNER` for this process."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.0f}"


def close_abandoned(client: MlflowClient, experiment_id: str) -> list[str]:
    """Close as KILLED every run of this host with status RUNNING whose process does not exist any more.

    Returns:
        the ids of the closed runs.
    """
    running = f"attributes.status = 'RUNNING' and tags.`{OWNER}` LIKE '{socket.gethostname()} %'"
    closed = []
    for run in client.search_runs([experiment_id], running, ViewType.ACTIVE_ONLY):
        _, pid, started = run.data.tags[OWNER].split()
        if not _is_running(int(pid), float(started)):
            client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))
            closed.append(run.info.run_id)
    return closed


def delete_if_empty(client: MlflowClient, run_id: str) -> None:
    """Delete a run that has neither metrics nor child runs, because the command that opened it was refused."""
    run = client.get_run(run_id)
    children = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'"
    if not run.data.metrics and not client.search_runs([run.info.experiment_id], children, max_results=1):
        client.delete_run(run_id)


def _is_running(pid: int, started: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - started) < _CLOCK_SECONDS)
    except psutil.NoSuchProcess:
        return False
