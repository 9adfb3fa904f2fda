"""A copy of the project for one test, and `kedro` in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def copy_tracked(repository: Path, folder: Path, keep: Callable[[str], bool] = lambda name: True) -> Path:
    """Copy the tracked files, or those whose names `keep` wants, as in a clone, and return the folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repository, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (repository / name).is_file() and keep(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, folder / name)
    return folder


def kedro(project: Path, *arguments: str, command: str = "run") -> str:
    """Run `kedro run`, or another command, and return its output."""
    environment = {**os.environ, "COLUMNS": "240", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    line = [sys.executable, "-m", "kedro", command, *arguments]
    done = subprocess.run(line, cwd=project, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def client(project: Path) -> "MlflowClient":
    """Return a client of the project's own MLflow store."""
    from mlflow import MlflowClient  # tests of the core run without MLflow

    return MlflowClient(f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")
