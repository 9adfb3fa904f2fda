"""A small untrained model and a few rendered scenes, as real shards."""

from pathlib import Path

import pytest
import torch
from tests.small_model import small_model
from tests.unit.evaluation.metrics.peer_model import save_peer

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.sources.folder import FolderConfig, FolderSource
from clips_pipeline.evaluation.inference.embed import Embedder
from clips_pipeline.interop.folder import load_model_folder, save_model
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece

IMAGES = ImageConfig(size=32)


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "shards"
    config = ScenesConfig(train=2, validation=9, test=13, image_size=32, samples_per_shard=8)
    prepare(ScenesSource(config), folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory, shards) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "tokenizer"
    texts = [text for r in eval_samples(shards, "test") for text in (r.web_caption, r.synthetic_caption, *r.captions)]
    train_wordpiece(texts, 300, folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer_folder) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("evaluation") / "clips"
    return save_model(ClipsModel(small_model()), tokenizer_folder, IMAGES.to_mapping(), folder)


@pytest.fixture
def loaded(model_folder):
    return load_model_folder(model_folder)


@pytest.fixture
def embedder(loaded):
    return Embedder(loaded.model, loaded.image_transform, loaded.tokenizer, batch_size=5)


@pytest.fixture(scope="session")
def peer(tmp_path_factory) -> Path:
    return save_peer(tmp_path_factory.mktemp("evaluation") / "peer")


@pytest.fixture(scope="session")
def photos(tmp_path_factory, fixtures_dir) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "photos"
    captions = fixtures_dir / "captions.json"
    prepare(FolderSource(FolderConfig(str(fixtures_dir / "images"), str(captions), evaluate_on="train")), folder)
    return folder
