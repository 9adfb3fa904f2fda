"""A small model, a table of its embeddings, and the app over both."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.served import Running, app_running, make_model, write_index

from clips_pipeline.evaluation.inference.embed import Embedder
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.interop.folder import load_model_folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def embedder(model_folder: Path) -> Embedder:
    loaded = load_model_folder(model_folder)
    return Embedder(loaded.model, loaded.image_transform, loaded.tokenizer)


@pytest.fixture(scope="session")
def index(model_folder: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("index") / "table.parquet", embedder, model_digest(model_folder))


@pytest.fixture(scope="session")
def app(model_folder: Path, index: Path) -> Iterator[Running]:
    with app_running(model_folder, index) as running:
        yield running
