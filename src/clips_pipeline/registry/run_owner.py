"""Which process writes to a run, so that the next start closes what a killed one left RUNNING."""

import os
import socket

import psutil
from mlflow.entities import RunStatus, ViewType
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

OWNER = "clips.process"
"""Tag of a run: host, process id and the process's start, in seconds since 1970."""
# The system computes a process's start from its own, which a corrected clock moves.
_CLOCK_SECONDS = 5.0


def owner() -> str:
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
        if not _lives(int(pid), float(begun)):
            client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))
            closed.append(run.info.run_id)
    return closed


def drop_if_empty(client: MlflowClient, run_id: str) -> None:
    """Delete a run that holds neither a metric nor a child: whoever opened it was refused."""
    run = client.get_run(run_id)
    children = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'"
    if not run.data.metrics and not client.search_runs([run.info.experiment_id], children, max_results=1):
        client.delete_run(run_id)


def _lives(pid: int, begun: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - begun) < _CLOCK_SECONDS)
    except psutil.NoSuchProcess:
        return False
