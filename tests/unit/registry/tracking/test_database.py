"""Creation of MLflow's database: two starts at the same time, and a start that is killed while creating the tables."""

import os
import subprocess
import sys
from pathlib import Path

from mlflow.tracking import MlflowClient

from clips_pipeline.registry.tracking.server import database_creation_lock

START = """
import sys
from mlflow.tracking import MlflowClient
from clips_pipeline.registry.tracking.server import database_creation_lock
with database_creation_lock(sys.argv[1], "clips"):
    client = MlflowClient(sys.argv[1])
    if client.get_experiment_by_name("clips") is None:
        client.create_experiment("clips")
"""
# Exits in the middle of MLflow's migrations.
KILLED = """
import os
import mlflow.store.db.utils as utils
utils._upgrade_db = lambda engine: os._exit(9)
"""


def start(uri: str, before: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "ignore", "-c", before + START, uri]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "GIT_PYTHON_REFRESH": "quiet"}
    )


def test_two_first_starts_create_one_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'deep' / 'mlflow.db'}"
    for process in [start(uri), start(uri)]:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
    assert [one.name for one in MlflowClient(uri).search_experiments()] == ["clips", "Default"]


def test_an_incomplete_database_is_created_again(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    killed = start(uri, KILLED)
    killed.communicate(timeout=300)
    assert killed.returncode == 9
    assert (tmp_path / "mlflow.db").stat().st_size > 0
    again = start(uri)
    _, told = again.communicate(timeout=300)
    assert again.returncode == 0, told
    assert MlflowClient(uri).get_experiment_by_name("clips") is not None


def test_a_complete_database_is_not_locked_or_changed(store: str) -> None:
    client = MlflowClient()
    run = client.create_run("0").info.run_id
    with database_creation_lock(store, "Default"):
        assert not Path(f"{store.removeprefix('sqlite:///')}.lock").exists()
    with database_creation_lock(store, "of another name"):
        assert client.get_run(run).info.run_id == run
