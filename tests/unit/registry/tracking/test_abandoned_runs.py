"""Runs that a killed process left open, and runs of a refused start."""

import subprocess
import sys

from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from clips_pipeline.registry.tracking.runs import OWNER, close_abandoned, delete_if_empty, process_tag


def test_only_runs_of_ended_processes_are_closed(store: str) -> None:
    client = MlflowClient()
    experiment = client.create_experiment("owners")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, own_pid, begun = process_tag().split()
    tags = {
        "mine": process_tag(),
        "gone": f"{host} {ended.pid} {begun}",
        "number given again": f"{host} {own_pid} 12345",
        "of another host": f"elsewhere {ended.pid} {begun}",
    }
    runs = {name: client.create_run(experiment, tags={OWNER: tag}).info.run_id for name, tag in tags.items()}
    runs["without a name"] = client.create_run(experiment).info.run_id
    assert set(close_abandoned(client, experiment)) == {runs["gone"], runs["number given again"]}
    statuses = {name: client.get_run(run).info.status for name, run in runs.items()}
    assert statuses.pop("gone") == statuses.pop("number given again") == "KILLED"
    assert set(statuses.values()) == {"RUNNING"}


def test_a_refused_start_leaves_no_run_and_runs_with_metrics_stay(store: str) -> None:
    client = MlflowClient()
    experiment = client.create_experiment("refusals")
    empty, measured, parent = (client.create_run(experiment).info.run_id for _ in range(3))
    client.log_metric(measured, "a", 1.0)
    client.create_run(experiment, tags={"mlflow.parentRunId": parent})
    for run in (empty, measured, parent):
        delete_if_empty(client, run)
    left = {run.info.run_id for run in client.search_runs([experiment], run_view_type=ViewType.ACTIVE_ONLY)}
    assert empty not in left
    assert {measured, parent} < left
