"""MLflow runs of a search: one parent run, and one child run per trial, shared by all its attempts."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from clips_pipeline.io.disk_errors import write_text
from clips_pipeline.io.redact import redact_values
from clips_pipeline.registry.tracking.run_tracking import RunTracker
from clips_pipeline.registry.tracking.runs import OWNER, active_run_id, log_final_metrics, process_tag
from clips_pipeline.registry.tracking.server import run_url

log = logging.getLogger(__name__)

PARENT_FILE = "mlflow_run.json"
# A pruned trial is not a failure; its tag distinguishes it from a complete one.
_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class _TrialInfo(Protocol):
    """`tuning.trial.TrialInfo`, which this package must not import."""

    @property
    def number(self) -> int: ...
    @property
    def first_attempt(self) -> int: ...
    @property
    def run_id(self) -> str | None: ...
    @property
    def values(self) -> dict[str, Any]: ...
    @property
    def run_folder(self) -> Path: ...
    @property
    def study(self) -> str: ...
    @property
    def parent(self) -> str | None: ...


class TrialTracker(RunTracker):
    """A `RunTracker` of one trial, which also stores its final state."""

    url: str | None = None
    state = "failed"

    def finish(self, state: str) -> None:
        """Store the final state: `complete`, `pruned`, `failed` or `interrupted`."""
        self.state = state


@contextmanager
def child_run(info: _TrialInfo) -> Iterator[TrialTracker]:
    """Open the MLflow run of one trial, a child of the search's run.

    A later attempt continues the same run, even where the study does not know the run's id.

    Args:
        info: the trial, as `tuning.trial.TrialInfo`.
    """
    parent = info.parent or active_run_id()
    if parent is None:
        yield TrialTracker(info.run_folder)
        return
    client = MlflowClient()
    experiment = client.get_run(parent).info.experiment_id
    tags = {
        MLFLOW_PARENT_RUN_ID: parent,
        "optuna.study": info.study,
        "optuna.first_attempt": str(info.first_attempt),
        "optuna.trial": str(info.number),
        "optuna.state": "running",
        OWNER: process_tag(),
    }
    run_id = _find_earlier_run(client, experiment, parent, info)
    if run_id is None:
        run_id = client.create_run(experiment, run_name=f"trial-{info.first_attempt:04d}", tags=tags).info.run_id
        for key, value in info.values.items():
            client.log_param(run_id, key, redact_values(value))
    else:
        client.update_run(run_id, status="RUNNING")
        for tag, text in tags.items():
            client.set_tag(run_id, tag, text)
    tracker = TrialTracker(info.run_folder, run_id)
    tracker.url = run_url(experiment, run_id)
    try:
        with tracker:
            yield tracker
    finally:
        client.set_tag(run_id, "optuna.state", tracker.state)
        client.set_terminated(run_id, _STATUS[tracker.state])


def _find_earlier_run(client: MlflowClient, experiment: str, parent: str, info: _TrialInfo) -> str | None:
    if info.run_id is not None:
        try:
            return str(client.get_run(info.run_id).info.run_id)
        except MlflowException:
            log.warning(
                "MLflow run %s of trial %d does not exist any more; starting a new run", info.run_id, info.first_attempt
            )
            return None
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}' and tags.`optuna.first_attempt` = '{info.first_attempt}'"
    runs = client.search_runs([experiment], query, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def save_parent(folder: Path, study_name: str, run_id: str | None) -> None:
    """Save the parent run, which a later start of the search continues, and tag another active run with its id.

    Args:
        folder: folder of the search.
        study_name: name of the study.
        run_id: the parent run of the study's trials.
    """
    if run_id is None:
        return
    write_text(folder / PARENT_FILE, json.dumps({"study": study_name, "run_id": run_id}))
    active = active_run_id()
    if active not in (None, run_id):
        log.info("study %s: its trials are children of MLflow run %s", study_name, run_id)
        mlflow.set_tag("optuna.parent_run", run_id)


def load_parent(folder: Path, study_name: str) -> str | None:
    """Return the parent run that an earlier start of this search saved in `folder`."""
    file = folder / PARENT_FILE
    if not file.is_file():
        return None
    saved: dict[str, str] = json.loads(file.read_text())
    return saved["run_id"] if saved["study"] == study_name else None


def log_search(run_id: str | None, metric: str, value: float, best_parameters: dict[str, Any], files: Path) -> None:
    """Log the results of a search to the parent run of its trials.

    Args:
        run_id: the parent run; None for the active run.
        metric: metric of the study.
        value: score of the best trial.
        best_parameters: parameters of the best trial.
        files: a folder with figures, table and summary.
    """
    run_id = run_id or active_run_id()
    if run_id is None:
        return
    client = MlflowClient()
    log_final_metrics(client, run_id, {f"best/{metric}": value})
    client.log_dict(run_id, best_parameters, "best_parameters.yml")
    client.log_artifacts(run_id, str(files), "search")
