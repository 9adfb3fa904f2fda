"""A small model, a table of its embeddings, and the app over both."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.served import Running, app_running, write_index
from tests.small_model import small_model

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.evaluation.inference.embed import Embedder
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.interop.folder import load_model_folder, save_model
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    train_wordpiece(["a red square", "a blue circle", "the picture shows a green line"], 120, folder / "tokenizer")
    torch.manual_seed(1)
    return save_model(
        ClipsModel(small_model()), folder / "tokenizer", ImageConfig(size=32).to_mapping(), folder / "clips"
    )


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
