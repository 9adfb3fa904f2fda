"""The MLflow tree of a search: one parent run, one child per trial, whatever was killed and started again."""

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
from clips_pipeline.registry.tracking.run_tracking import RunTracker
from clips_pipeline.registry.tracking.runs import OWNER, active_run_id, log_final_metrics, process_tag
from clips_pipeline.registry.tracking.server import run_url

log = logging.getLogger(__name__)

PARENT_FILE = "mlflow_run.json"
# A pruned trial has done what it was asked to; only its tag tells it from a complete one.
_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class _TrialInfo(Protocol):
    """`tuning.trial.TrialInfo`, which stands above this package."""

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
    """A `RunTracker` of one trial that knows how the trial ended."""

    url: str | None = None
    state = "failed"

    def finish(self, state: str) -> None:
        """Note how it ended: `complete`, `pruned`, `failed` or `interrupted`."""
        self.state = state


@contextmanager
def child_run(name: _TrialInfo) -> Iterator[TrialTracker]:
    """The MLflow run of one trial, a child of the search's.

    A later attempt at the trial goes on in the same run, also where the study never learned its id.

    Args:
        name: `tuning.trial.TrialInfo`.
    """
    parent = name.parent or active_run_id()
    if parent is None:
        yield TrialTracker(name.run_folder)
        return
    client = MlflowClient()
    experiment = client.get_run(parent).info.experiment_id
    tags = {
        MLFLOW_PARENT_RUN_ID: parent,
        "optuna.study": name.study,
        "optuna.first_attempt": str(name.first_attempt),
        "optuna.trial": str(name.number),
        "optuna.state": "running",
        OWNER: process_tag(),
    }
    run_id = _find_earlier_run(client, experiment, parent, name)
    if run_id is None:
        run_id = client.create_run(experiment, run_name=f"trial-{name.first_attempt:04d}", tags=tags).info.run_id
        for key, value in name.values.items():
            client.log_param(run_id, key, value)
    else:
        client.update_run(run_id, status="RUNNING")
        for tag, text in tags.items():
            client.set_tag(run_id, tag, text)
    tracker = TrialTracker(name.run_folder, run_id)
    tracker.url = run_url(experiment, run_id)
    try:
        with tracker:
            yield tracker
    finally:
        client.set_tag(run_id, "optuna.state", tracker.state)
        client.set_terminated(run_id, _STATUS[tracker.state])


def _find_earlier_run(client: MlflowClient, experiment: str, parent: str, name: _TrialInfo) -> str | None:
    if name.run_id is not None:
        try:
            return str(client.get_run(name.run_id).info.run_id)
        except MlflowException:
            log.warning("the MLflow run %s of trial %d is gone; a new one is opened", name.run_id, name.first_attempt)
            return None
    wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}' and tags.`optuna.first_attempt` = '{name.first_attempt}'"
    found = client.search_runs([experiment], wanted, max_results=1)
    return str(found[0].info.run_id) if found else None


def save_parent(folder: Path, study_name: str, run_id: str | None) -> None:
    """Note which run a later start of the search goes on in; a second parent is marked as belonging to the first.

    Args:
        folder: of the search.
        study_name: whose parent it is.
        run_id: the parent of the study's trials.
    """
    if run_id is None:
        return
    write_text(folder / PARENT_FILE, json.dumps({"study": study_name, "run_id": run_id}))
    active = active_run_id()
    if active not in (None, run_id):
        log.info("the trials of study %s are children of MLflow run %s", study_name, run_id)
        mlflow.set_tag("optuna.parent_run", run_id)


def load_parent(folder: Path, study_name: str) -> str | None:
    """The run that an earlier start of this search noted in `folder`."""
    file = folder / PARENT_FILE
    if not file.is_file():
        return None
    saved: dict[str, str] = json.loads(file.read_text())
    return saved["run_id"] if saved["study"] == study_name else None


def log_search(run_id: str | None, metric: str, value: float, best_parameters: dict[str, Any], files: Path) -> None:
    """Put the outcome of a search on the parent of its trials.

    Args:
        run_id: the parent; None for the active run.
        metric: of the study.
        value: of its best trial.
        best_parameters: of that trial.
        files: a folder with figures, table and summary.
    """
    run_id = run_id or active_run_id()
    if run_id is None:
        return
    client = MlflowClient()
    log_final_metrics(client, run_id, {f"best/{metric}": value})
    client.log_dict(run_id, best_parameters, "best_parameters.yml")
    client.log_artifacts(run_id, str(files), "search")
