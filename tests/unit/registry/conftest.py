"""A real SQLite tracking store, and a folder with the files of an exported model."""

import sys
import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # mlflow 3.17 warns about its own code on import.
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated", DeprecationWarning)
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests, because creating its tables takes seconds; each test uses its own model name."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def store(tracking_uri, tmp_path_factory, monkeypatch):
    """Set mlflow's URIs to the database and reset them afterwards; artifacts go to a temporary folder."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    # Loading a packaged model adds its code to this process's path.
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking_uri)
    yield tracking_uri
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A model folder with dummy files: registering copies them without reading them."""
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    (folder / "vocab.txt").write_text("a\n")
    return folder
