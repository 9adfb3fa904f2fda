"""Evaluation of open_clip models: equality with open_clip's own computation, and invalid models."""

import copy
import json
import pickle
import random
import shutil
import socket
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.json_places import random_place
from tests.unit.evaluation.metrics.peer_model import MODEL_CFG, WEIGHTS, settings

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.index import load_classes
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_model
from clips_pipeline.evaluation.inference.embed import open_image, retrieval_texts
from clips_pipeline.evaluation.model_loading import load_embedder
from clips_pipeline.evaluation.results import MODEL
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.interop.open_clip_model import load_open_clip

CPU = EvaluationConfig(device="cpu", examples=2, batch_size=5)


@pytest.fixture(scope="module")
def theirs(peer):
    """Compute with open_clip only: image embeddings, captions and owners of a folder of shards, and a text encoder."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{peer}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{peer}")
    model.eval()

    @torch.no_grad()
    def embedded(texts):
        return model.encode_text(tokenizer(texts), normalize=True)

    @torch.no_grad()
    def of(folder):
        records = list(eval_samples(folder, "test"))
        texts = [(i, text) for i, record in enumerate(records) for text in retrieval_texts(record)]
        images = model.encode_image(torch.stack([transform(open_image(r.image)) for r in records]), normalize=True)
        return images, embedded([text for _, text in texts]), np.array([i for i, _ in texts])

    return of, embedded


@pytest.mark.parametrize("pictures", ["shards", "photos"])
def test_retrieval_equals_a_computation_by_open_clip(peer, theirs, pictures, request):
    folder = request.getfixturevalue(pictures)
    metrics = evaluate_model(peer, folder, CPU).metrics
    images, captions, owners = theirs[0](folder)
    score = (images @ captions.T).numpy()
    found = {}
    for k in (1, 5, 10):
        nearest = np.argsort(-score, axis=1)
        # The first of an image's own captions, with its others taken out, among the first k.
        ranks = [
            int(np.count_nonzero(owners[row][: np.argmax(owners[row] == i)] != i)) for i, row in enumerate(nearest)
        ]
        found[f"image_to_text_recall@{k}"] = np.mean(np.array(ranks) < k)
        nearest = np.argsort(-score, axis=0)[:k]
        found[f"text_to_image_recall@{k}"] = np.mean((nearest == owners[None]).any(axis=0))
    assert {name: metrics[f"retrieval/scenes/{name}"] for name in found} == pytest.approx(found, abs=0)
    assert not [name for name in metrics if name.startswith("caption/")]


def test_zero_shot_accuracy_equals_a_computation_by_open_clip(peer, shards, theirs):
    result = evaluate_model(peer, shards, CPU)
    (images, _, _), classes = theirs[0](shards), load_classes(shards)
    rows = [theirs[1]([text.replace("{}", name) for text in classes.templates]).mean(0) for name in classes.names]
    names = torch.nn.functional.normalize(torch.stack(rows), dim=1)
    labels = [record.label for record in eval_samples(shards, "test")]
    for k in (1, 5):
        top = (images @ names.T).topk(k, dim=1).indices.tolist()
        expected = np.mean([label in row for label, row in zip(labels, top, strict=True)])
        assert result.metrics[f"zero_shot/scenes/accuracy@{k}"] == expected
    assert {row[MODEL] for row in result.per_item} == {model_digest(peer)}


def test_a_checkpoint_with_its_architecture_is_the_same_model(peer, shards, theirs, monkeypatch):
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny-peer", MODEL_CFG)
    embedder = load_embedder(peer / WEIGHTS, replace(CPU, model=str(peer / WEIGHTS), architecture="tiny-peer"))
    records = list(eval_samples(shards, "test"))
    captions = embedder.texts(text for record in records for text in retrieval_texts(record))
    # Batches of another size, so not bitwise equal.
    np.testing.assert_allclose(captions, theirs[0](shards)[1].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "ViT-no"}, "has no 'ViT-no'"),
        ({"architecture": "ViT-B-32"}, r"cannot load .*open_clip_model\.safetensors"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(peer, shards, config, message):
    file = peer / WEIGHTS
    with pytest.raises(ConfigError, match=message):
        evaluate_model(file, shards, replace(CPU, model=str(file), **config))


def test_a_folder_with_an_architecture_is_refused(peer, shards):
    with pytest.raises(ConfigError, match="does not exist; give a file of weights"):
        evaluate_model(peer, shards, replace(CPU, model=str(peer), architecture="ViT-B-32"))


def test_an_architecture_needs_a_model():
    with pytest.raises(ConfigError, match="requires a checkpoint"):
        EvaluationConfig(architecture="ViT-B-32")


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / WEIGHTS).write_bytes(b"cut"), "asks for more weights than the 3 bytes"),
        (lambda folder: (folder / WEIGHTS).write_bytes(bytes(1 << 22)), "cannot load"),
        (
            lambda folder: (folder / WEIGHTS).write_bytes(pickle.dumps([Bomb(), bytes(1 << 22)], protocol=2)),
            "cannot load",
        ),
        (lambda folder: (folder / "open_clip_config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "open_clip_config.json").write_text(settings(embed_dim=16)), "cannot load"),
    ],
)
def test_damaged_folders_are_one_error(peer, shards, tmp_path, capsys, change, message):
    for file in peer.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    with pytest.raises(ConfigError, match=rf"evaluate\.model: .*{message}"):
        evaluate_model(tmp_path, shards, CPU)
    assert "boom" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.pth", "model.pt"])
def test_pickled_weights_are_read_without_unpickling(peer, shards, tmp_path, monkeypatch, name):
    shutil.copyfile(peer / "open_clip_config.json", tmp_path / "open_clip_config.json")
    torch.save({"state_dict": load_file(peer / WEIGHTS)}, tmp_path / name)
    monkeypatch.setattr(torch, "load", None)
    found, expected = load_open_clip(tmp_path).module.state_dict(), load_open_clip(peer).module.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    (tmp_path / name).write_bytes(b"damaged" * 2**20)
    with pytest.raises(ConfigError, match=rf"evaluate\.model: .*{name}: cannot be read without running code"):
        evaluate_model(tmp_path, shards, CPU)
    # Among several files, safetensors comes first; open_clip itself would prefer its own .bin.
    shutil.copyfile(peer / WEIGHTS, tmp_path / "model.safetensors")
    assert load_open_clip(tmp_path).module is not None


def test_a_folder_without_weights_is_refused(peer, tmp_path):
    shutil.copyfile(peer / "open_clip_config.json", tmp_path / "open_clip_config.json")
    with pytest.raises(ConfigError, match="contains no weights"):
        load_open_clip(tmp_path)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"vision_cfg": MODEL_CFG["vision_cfg"] | {"layers": 10**9}}, "vision_cfg.layers"),
        ({"vision_cfg": MODEL_CFG["vision_cfg"] | {"layers": [3, 10**9, 6, 3]}}, "vision_cfg.layers"),
        ({"vision_cfg": MODEL_CFG["vision_cfg"] | {"mlp_ratio": 1e9}}, "vision_cfg.layers"),
        ({"text_cfg": MODEL_CFG["text_cfg"] | {"vocab_size": 10**9}}, "text_cfg.vocab_size"),
        ({"text_cfg": MODEL_CFG["text_cfg"] | {"context_length": 10**9}}, "text_cfg.context_length"),
    ],
)
def test_a_model_larger_than_its_weights_is_not_built(peer, tmp_path, change, key):
    shutil.copyfile(peer / WEIGHTS, tmp_path / WEIGHTS)
    # The second spelling of a key must not hide the first.
    config = json.loads(settings(**change)) | {f"model_cfg.{key}": 1}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=rf"model_cfg\.{key} asks for more weights than"):
        load_open_clip(tmp_path)


RUNS_CODE = {
    "tokenizer_kwargs": (
        {"tokenizer_kwargs": {"trust_remote_code": True}},
        "tokenizer_kwargs.trust_remote_code asks for code",
    ),
    "a tokenizer's auto_map": ({"hf_tokenizer_name": "HERE"}, r"tokenizer_config\.json: auto_map\.\w+ names code"),
    "a text tower's auto_map": ({"hf_model_name": "HERE"}, r"config\.json: auto_map\.\w+ names code"),
    "a revision of code": (
        {"tokenizer_kwargs": {"code_revision": "main"}},
        "tokenizer_kwargs.code_revision asks for code",
    ),
}


@pytest.mark.parametrize("name", RUNS_CODE)
def test_code_of_a_model_folder_is_never_run(peer, shards, tmp_path, name):
    text, message = RUNS_CODE[name]
    folder, marker = tmp_path / "foreign", tmp_path / "ran"
    shutil.copytree(peer, folder)
    mapped = {
        "AutoTokenizer": ["foreign.Tokenizer", None],
        "AutoConfig": "foreign.Config",
        "AutoModel": "foreign.Model",
    }
    (folder / "foreign.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    if "auto_map" in name:
        (folder / "config.json").write_text(json.dumps({"model_type": "foreign", "auto_map": mapped}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": mapped}))
        if "tower" not in name:
            (folder / "config.json").unlink()
    changed = {key: str(folder) if value == "HERE" else value for key, value in text.items()}
    config = json.loads(settings(text_cfg=MODEL_CFG["text_cfg"] | changed))
    # The same keys spelled with dots must not hide those above.
    config |= {f"model_cfg.text_cfg.tokenizer_kwargs.{key}": False for key in ("trust_remote_code", "code_revision")}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        evaluate_model(folder, shards, CPU)
    assert not marker.exists()


@pytest.mark.parametrize("key", ["trust_remote_code", "_attn_implementation_internal", "auto_map"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_named_at_any_depth_is_never_run(peer, tmp_path, file, key):
    for name in ("open_clip_config.json", WEIGHTS):
        shutil.copyfile(peer / name, tmp_path / name)
    (tmp_path / file).write_text(json.dumps({"model_type": "bert", "text_config": {key: "evil/code"}}))
    with pytest.raises(ConfigError, match=rf"{file}: text_config\.{key} (asks for|names) code of the model"):
        load_open_clip(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"text_cfg": {"hf_model_name": "someone/model", "hf_tokenizer_name": "someone/model"}},
        {"vision_cfg": {"timm_model_name": "hf-hub:someone/model", "image_size": 48}},
        {"text_cfg": {"hf_model_name": "../../etc"}},
        {"text_cfg": {"hf_model_name": "x" * 5_000}},
        {"text_cfg": {"hf_model_name": "a\0b"}},
    ],
)
def test_nothing_is_fetched_for_a_folder_that_names_models_of_the_hub(peer, tmp_path, monkeypatch, change):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address))
    shutil.copyfile(peer / WEIGHTS, tmp_path / WEIGHTS)
    (tmp_path / "open_clip_config.json").write_text(settings(**change))
    with pytest.raises(ConfigError, match=r"evaluate\.model: "):
        load_open_clip(tmp_path)
    assert asked == []


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "x", " " * (1 << 20) + "{}"])
def test_a_configuration_that_is_no_small_json_object_is_refused(peer, shards, tmp_path, content):
    folder = tmp_path / "foreign"
    shutil.copytree(peer, folder)
    (folder / "open_clip_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"open_clip_config\.json (cannot be read|is not a JSON object)"):
        evaluate_model(folder, shards, CPU)


def test_a_tokenizer_of_another_model_is_refused(shards, tmp_path):
    config = MODEL_CFG | {"text_cfg": {**MODEL_CFG["text_cfg"], "vocab_size": 100}}
    (tmp_path / "open_clip_config.json").write_text(settings(text_cfg=config["text_cfg"]))
    save_file(open_clip.CLIP(**config).state_dict(), tmp_path / WEIGHTS)
    with pytest.raises(ConfigError, match="the text tower has 100; use the tokenizer of this model"):
        evaluate_model(tmp_path, shards, CPU)


def test_our_own_tokenizer_must_not_have_more_pieces_than_the_model(model_folder, shards, tmp_path):
    for file in model_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text() + "onemore\n")
    with pytest.raises(ConfigError, match="has 301 pieces but the text tower 300"):
        evaluate_model(tmp_path, shards, CPU)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": "abc"},
        {"mean": [[[1]]]},
        {"std": [0, 0]},
        {"size": 24},
        {"size": [48, 0]},
        {"size": -1},
        {"mode": "CMYK"},
        {"interpolation": 5},
        {"resize_mode": {}},
        {"fill_color": "red"},
        {"unknown": 1},
    ],
)
def test_a_hostile_preprocessing_is_one_error_or_gives_images_of_the_models_size(peer, tmp_path, change):
    shutil.copyfile(peer / WEIGHTS, tmp_path / WEIGHTS)
    config = json.loads(settings())
    config["preprocess_cfg"] |= change
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    try:
        towers = load_open_clip(tmp_path)
    except ConfigError as error:
        assert str(error).startswith("evaluate.model: ")  # noqa: PT017 - some of these are harmless
    else:
        assert towers.image_transform(Image.new("RGB", (90, 30))).shape == (3, 48, 48)


def test_a_tokenizer_that_panics_for_a_text_is_one_error(peer, tmp_path):
    folder = tmp_path / "foreign"
    shutil.copytree(peer, folder)
    (folder / "open_clip_config.json").write_text(
        settings(text_cfg=MODEL_CFG["text_cfg"] | {"hf_tokenizer_name": "any"})
    )
    _fast_tokenizer(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    # The regular expression library gives up after ten million steps, by a panic of Rust, which is no `Exception`.
    content["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(z+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    towers = load_open_clip(folder)
    with pytest.raises(ConfigError, match=r"the tokenizer of .* fails for a text"):
        towers.text_rows(["z" * 30 + "!"])


def _fast_tokenizer(folder):
    """Write a small tokenizer of transformers, trained on a few words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(["a text to try the tokenizer with", "two texts to read"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def _hostile_tokenizer(content, draws):
    """Change one value of a tokenizer.json, or some of its bytes."""
    if draws.random() < 0.3:
        changed = bytearray(json.dumps(content).encode())
        for _ in range(draws.choice([1, 5, 50])):
            changed[draws.randrange(len(changed))] = draws.randrange(256)
        return bytes(changed)
    place, key = random_place(content, draws)
    deep = {}
    for _ in range(100):
        deep = {"type": "Sequence", "normalizers": [deep]}
    place[key] = draws.choice([None, -1, 2**40, 1e308, "", "x" * 10_000, [], {}, [[]], True, deep, {"type": "Unigram"}])
    return json.dumps(content).encode()


def test_hostile_tokenizers_of_a_folder_are_one_error(peer, tmp_path, caplog):
    folder = tmp_path / "foreign"
    shutil.copytree(peer, folder)
    changed = MODEL_CFG["text_cfg"] | {"hf_tokenizer_name": "any"}
    (folder / "open_clip_config.json").write_text(settings(text_cfg=changed))
    _fast_tokenizer(folder)
    intact = json.loads((folder / "tokenizer.json").read_text())
    assert load_open_clip(folder).text_rows(["a text"]).shape == (1, 20)
    assert caplog.messages == []
    draws, refused = random.Random(0), 0  # noqa: S311
    names = (folder / "tokenizer_config.json").read_bytes()
    odd = [b"{}", b"[]", b'{"tokenizer_class": 5}', b'{"model_max_length": -1}', b'{"pad_token": []}']
    for number in range(120):
        (folder / "tokenizer.json").write_bytes(_hostile_tokenizer(copy.deepcopy(intact), draws))
        (folder / "tokenizer_config.json").write_bytes(draws.choice(odd) if number % 3 == 0 else names)
        try:
            load_open_clip(folder)
        except ConfigError:
            refused += 1
    assert 20 < refused < 120
    for damage, message in ((b"[" * 100_000, "cannot be loaded"), (b" " * (2**26 + 1), "has more than 67108864 bytes")):
        (folder / "tokenizer.json").write_bytes(damage)
        with pytest.raises(ConfigError, match=message):
            load_open_clip(folder)
