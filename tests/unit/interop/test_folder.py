"""Model folder: round trip, atomic replacement, and errors."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.interop.folder import load_model_folder, load_weights_folder, save_model
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import SIZES
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

TINY = SIZES["tiny"]
VOCABULARY = 30_522
CONFIG = dataclasses.replace(
    TINY,
    vision=dataclasses.replace(TINY.vision, depth=1),
    text=dataclasses.replace(TINY.text, depth=1, padding="mask", vocab_size=VOCABULARY),
    captioner=dataclasses.replace(TINY.captioner, vocab_size=VOCABULARY),
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ClipsModel(CONFIG)


@pytest.fixture
def tokenizer_dir(tmp_path, fixtures_dir):
    tokenizer = WordPieceTokenizer.from_vocab(fixtures_dir / "bert_base_uncased_vocab.txt")
    tokenizer.save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def folder(tmp_path, model, tokenizer_dir):
    return save_model(model, tokenizer_dir, ImageConfig(size=64).to_mapping(), tmp_path / "models" / "clips")


def test_round_trip(folder, model):
    loaded = load_model_folder(folder)
    assert loaded.model.config == CONFIG
    assert not loaded.model.training
    state = model.state_dict()
    found = loaded.model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    image = loaded.image_transform(Image.new("RGB", (80, 60), "red"))
    assert image.shape == (3, 64, 64)
    assert loaded.model.encode_image(image[None]).shape == (1, 128)
    assert loaded.tokenizer.vocab_size == 30_522
    assert loaded.config["images"]["size"] == 64


def test_files_of_the_model_folder(folder):
    names = {file.name for file in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer_config.json", "vocab.txt"} <= names
    assert [entry.name for entry in folder.parent.iterdir()] == ["clips"]
    assert json.loads((folder / "config.json").read_text())["version"] == 1


def test_saving_again_replaces_the_whole_folder(folder, model, tokenizer_dir):
    (folder / "stale.txt").write_text("from before")
    with torch.no_grad():
        model.logit_scale.fill_(1.0)
    save_model(model, tokenizer_dir, {"size": 64}, folder)
    assert not (folder / "stale.txt").exists()
    assert float(load_weights_folder(folder)[0].logit_scale) == 1.0


def test_a_failed_save_leaves_the_old_model(folder, model, tokenizer_dir):
    (tokenizer_dir / "model.safetensors").write_text("in the way")
    with pytest.raises(ConfigError, match=r"must not contain model\.safetensors"):
        save_model(model, tokenizer_dir, {"size": 64}, folder)
    load_weights_folder(folder)
    assert [entry.name for entry in folder.parent.iterdir()] == ["clips"]


def test_no_tokenizer_folder(tmp_path, model):
    with pytest.raises(ConfigError, match="no tokenizer folder"):
        save_model(model, tmp_path / "nowhere", {}, tmp_path / "out")


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json: no such file; give a model folder"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json: not valid JSON"),
        (lambda f: edit(f, format="other"), "not a model of this project"),
        (lambda f: edit(f, version=2), "version 2 is not supported, this release reads 1"),
        (lambda f: edit(f, model=None), "model: missing"),
        (lambda f: edit(f, model={"embed_dim": 3}), "model.vision: missing"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (truncate, "model.safetensors: cannot be read"),
    ],
)
def test_damaged_folders_are_named(folder, damage, message):
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        load_weights_folder(folder)


def test_weights_of_another_size(folder):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["text"]["depth"] = 2
    edit(folder, model=config["model"])
    with pytest.raises(ConfigError, match=r"does not match config.json"):
        load_weights_folder(folder)


def test_an_unknown_image_setting(folder):
    edit(folder, images={"size": 64, "sizes": 3})
    with pytest.raises(ConfigError, match=r"images.sizes: unknown key; did you mean 'size'"):
        load_model_folder(folder)


def test_a_tokenizer_with_more_ids_than_the_table(folder):
    with (folder / "vocab.txt").open("a") as stream:
        stream.write("onemore\n")
    with pytest.raises(ConfigError, match="has 30523 pieces but the text tower 30522; use the tokenizer of this model"):
        load_model_folder(folder)
