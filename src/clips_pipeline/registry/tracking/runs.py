"""An MLflow run: its owner, its final numbers, and names as MLflow takes them."""

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
"""Tag of a run: host, process id and the process's start, in seconds since 1970."""
# The system computes a process's start from its own, which a corrected clock moves.
_CLOCK_SECONDS = 5.0
_MAX_KEY_LENGTH = 250


def active_run_id() -> str | None:
    """Id of the MLflow run that Kedro opened, None where there is none."""
    active = mlflow.active_run()
    return active.info.run_id if active else None


@contextmanager
def config_error_if_missing(message: str) -> Iterator[None]:
    """What MLflow does not have becomes a `ConfigError` with this message."""
    try:
        yield
    except MlflowException as error:
        # Any other trouble (a server that does not answer) must not pass for something that is gone.
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ConfigError(message) from None


def mlflow_key(name: str) -> str:
    """A name as MLflow accepts it in metrics, parameters and tags: `recall@1` becomes `recall_at_1`, the rest `_`."""
    return re.sub(r"[^/\w.\- :]", "_", name.replace("@", "_at_"))[:_MAX_KEY_LENGTH]


def log_final_metrics(
    client: MlflowClient, run_id: str, metrics: Mapping[str, float], model_id: str | None = None
) -> None:
    """Log numbers that a run has once, the outcome of an evaluation or a search, at step 0.

    What the run holds with this very value is left out: a command that was killed and given again adds no second point.

    Args:
        client: of the tracking server.
        run_id: of the run.
        metrics: by our names.
        model_id: the LoggedModel that they are of.
    """
    held = client.get_run(run_id).data.metrics
    stamp = int(time.time() * 1000)
    points = [
        Metric(name, value, stamp, 0, model_id=model_id, run_id=run_id)
        for name, value in ((mlflow_key(key), float(value)) for key, value in metrics.items())
        if held.get(name) != value
    ]
    if points:
        client.log_batch(run_id, metrics=points)


def configure_system_metrics(parameters: Mapping[str, Any]) -> None:
    """Let MLflow watch the machine while the next run is open, or not: CPU, memory, disk, network and GPUs.

    Raises:
        ConfigError: the group `tracking` is wrong.
    """
    config = from_mapping(TrackingConfig, parameters, "tracking")
    if config.system_metrics:
        mlflow.enable_system_metrics_logging()
        mlflow.set_system_metrics_sampling_interval(config.interval_s)
    else:
        mlflow.disable_system_metrics_logging()


def process_tag() -> str:
    """This process."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.0f}"


def close_abandoned(client: MlflowClient, experiment_id: str) -> list[str]:
    """Close as KILLED every run of this host that is RUNNING though its process is gone.

    Returns:
        their ids.
    """
    running = f"attributes.status = 'RUNNING' and tags.`{OWNER}` LIKE '{socket.gethostname()} %'"
    closed = []
    for run in client.search_runs([experiment_id], running, ViewType.ACTIVE_ONLY):
        _, pid, begun = run.data.tags[OWNER].split()
        if not _is_running(int(pid), float(begun)):
            client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))
            closed.append(run.info.run_id)
    return closed


def delete_if_empty(client: MlflowClient, run_id: str) -> None:
    """Delete a run that holds neither a metric nor a child: whoever opened it was refused."""
    run = client.get_run(run_id)
    children = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'"
    if not run.data.metrics and not client.search_runs([run.info.experiment_id], children, max_results=1):
        client.delete_run(run_id)


def _is_running(pid: int, begun: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - begun) < _CLOCK_SECONDS)
    except psutil.NoSuchProcess:
        return False
