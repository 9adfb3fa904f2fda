"""Published weights in: folders that open_clip wrote become model folders that compute the same, or one error."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.interop.export_models import write_model
from tests.unit.interop.published import save_published

import clips_pipeline
from clips_pipeline.config import ConfigError
from clips_pipeline.interop.export.export_model import export_model
from clips_pipeline.interop.export.open_clip_form import write_open_clip
from clips_pipeline.interop.folder import ORIGIN, load_model_folder
from clips_pipeline.interop.import_model import default_name, import_model
from clips_pipeline.interop.open_clip_model import load_open_clip
from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
TEXTS = ["a dog", "A red ball on the grass, [CLS] beside two dogs.", "word " * 200, ""]


@pytest.fixture(scope="module")
def vocabulary(fixtures_dir: Path) -> Path:
    return fixtures_dir / "bert_base_uncased_vocab.txt"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    return save_published(tmp_path_factory.mktemp("saved") / "published", vocabulary)


@pytest.fixture
def published(tmp_path: Path, saved: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "published")


@torch.no_grad()
@pytest.mark.parametrize("safe", [True, False])
def test_an_imported_model_computes_what_open_clip_does(tmp_path: Path, vocabulary: Path, safe: bool) -> None:
    folder = save_published(tmp_path / "published", vocabulary, safe=safe)
    origin = import_model(str(folder), tmp_path / "model")
    name = f"local-dir:{folder}"
    theirs = open_clip.create_model_and_transforms(name)[0].eval()
    rows = open_clip.get_tokenizer(name)(TEXTS)
    ours = clips_pipeline.load(tmp_path / "model")
    assert torch.equal(ours.tokenizer(TEXTS), rows)
    images = torch.randn(3, 3, 32, 32)
    assert (ours.model.encode_image(images) - theirs.encode_image(images, normalize=True)).abs().max() < 1e-6
    assert (ours.model.encode_text(rows) - theirs.encode_text(rows, normalize=True)).abs().max() < 1e-6
    assert torch.equal(ours.model.logit_scale, theirs.logit_scale)
    assert ours.model.captioner is None
    assert origin.license == "apache-2.0"
    assert ours.config[ORIGIN]["weights_sha256"] == origin.weights_sha256
    assert origin.weights == (WEIGHTS if safe else "open_clip_pytorch_model.bin")


def test_rows_are_those_of_the_training_also_where_the_configuration_names_no_mode(
    tmp_path: Path, vocabulary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published = save_published(tmp_path / "published", vocabulary, mode="")
    import_model(str(published), tmp_path / "model")
    row = clips_pipeline.load(tmp_path / "model").tokenizer("a dog")[0].tolist()
    assert (row[:4], row[-1]) == ([1, 1037, 3899, 2], 101)
    # open_clip fills the position that is pooled, and our evaluation by open_clip says so.
    assert load_open_clip(published).text_rows(["a dog"])[0, -1] == 0
    assert "but text_cfg.tokenizer_mode is not clips" in caplog.text


@pytest.mark.parametrize("kind", ["wordpiece", "clip_bpe"])
def test_an_export_for_open_clip_is_read_again(tmp_path: Path, fixtures_dir: Path, vocabulary: Path, kind: str) -> None:
    tokenizer = (
        WordPieceTokenizer.from_vocab(vocabulary)
        if kind == "wordpiece"
        else ClipBpeTokenizer.from_merges(fixtures_dir / "bpe_simple_vocab_16e6.txt.gz")
    )
    model = write_model(tmp_path, tokenizer, framing="squash", interpolation="bicubic")
    (tmp_path / "exported").mkdir()
    write_open_clip(load_model_folder(model), tmp_path / "exported")
    import_model(str(tmp_path / "exported"), tmp_path / "again")
    before, after = load_model_folder(model), load_model_folder(tmp_path / "again")
    weights = after.model.state_dict()
    assert [text for text in TEXTS if before.tokenizer.body(text) != after.tokenizer.body(text)] == []
    assert all(torch.equal(before.model.state_dict()[name], tensor) for name, tensor in weights.items())
    assert (after.images.framing, after.images.interpolation, after.images.size) == ("squash", "bicubic", 32)


@pytest.mark.parametrize(
    "form", ["onnx", *(pytest.param(form, marks=pytest.mark.slow) for form in ("transformers", "open-clip"))]
)
def test_a_folder_of_open_clip_is_exported(published: Path, tmp_path: Path, form: str) -> None:
    differences = export_model(published, tmp_path / "out", form)
    assert max(differences["image_features"], differences["text_features"]) < 1e-6
    assert "apache-2.0" in (tmp_path / "out/README.md").read_text()


def change(key: str, value: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        *parts, last = key.split(".")
        place = config
        for part in parts:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
        (folder / CONFIG).write_text(json.dumps(config))

    return apply


def weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        edit(tensors)
        save_file(tensors, folder / WEIGHTS)

    return apply


def rewrite(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: bool((folder / name).write_bytes(content))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            change("model_cfg.vision_cfg.no_ln_pre", None),
            r"vision_cfg\.no_ln_pre: missing, so this is no model of CLIPS",
        ),
        (change("model_cfg.vision_cfg.pool_type", "tok"), r"vision_cfg\.pool_type: 'tok'.*evaluate\.model"),
        (change("model_cfg.text_cfg.no_causal_mask", 1), r"no_causal_mask: '1'"),
        (change("model_cfg.text_cfg.act_kwargs", {}), r"text_cfg\.act_kwargs: '\{\}'"),
        (change("model_cfg.text_cfg.norm_kwargs", {"eps": 1e-5}), r"text_cfg\.norm_kwargs"),
        (change("model_cfg.text_cfg.hf_model_name", "roberta-base"), r"text_cfg\.hf_model_name: 'roberta-base'"),
        (change("model_cfg.vision_cfg.ls_init_value", 0.1), r"vision_cfg\.ls_init_value"),
        (change("model_cfg.quick_gelu", True), "quick_gelu"),
        (change("model_cfg.multimodal_cfg", {"width": 3}), "multimodal_cfg"),
        (change("model_cfg.vision_cfg.layers", 3), r"vision_cfg\.layers: 3, but .* has 2; use both files of one model"),
        (change("model_cfg.vision_cfg.layers", "2"), r"vision_cfg\.layers: '2' is no size"),
        (change("model_cfg.vision_cfg.head_width", 24), "24 does not divide the width 40"),
        (change("model_cfg.vision_cfg.image_size", 48), "is 9 patches, but .* has positions for 4"),
        (change("model_cfg.vision_cfg.image_size", 30), "30 is not a multiple of the patch size"),
        (change("model_cfg.text_cfg.heads", 5), "cannot be split into 5 heads"),
        (change("model_cfg.text_cfg.vocab_size", 30522), r"vocab_size: 30522, but .* has 32000"),
        (change("model_cfg", []), "model_cfg: not an object"),
        (change("model_cfg.text_cfg", None), "text_cfg: missing"),
        (change("preprocess_cfg.resize_mode", "longest"), r"resize_mode: 'longest' is not supported"),
        (change("preprocess_cfg.size", [224, 224]), r"size: \[224, 224\], but the vision tower reads images of 32"),
        (change("preprocess_cfg.std", [0, 1, 1]), r"preprocess_cfg.*std"),
        (rewrite(CONFIG, b"{"), r"open_clip_config\.json: cannot be read as JSON"),
        (rewrite(CONFIG, b"[" * 100_000), "cannot be read as JSON"),
        (rewrite(WEIGHTS, b"cut"), r"safetensors cannot be read as tensors"),
        (weights(lambda found: found.pop("visual.proj")), "missing visual.proj"),
        (weights(lambda found: found.update({"text.x": torch.ones(2)})), r"unexpected text\.x"),
        (
            weights(lambda found: found["ln_final.bias"].fill_(torch.nan)),
            r"ln_final\.bias has values that are not finite",
        ),
        (lambda folder: (folder / WEIGHTS).unlink(), "contains no weights"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"no such file; copy vocab\.txt or tokenizer\.json"),
        (rewrite("tokenizer.json", b"{}"), "is no tokenizer"),
        (rewrite("tokenizer.json", b'{"model": {"type": "Unigram", "vocab": {}}}'), "neither an uncased WordPiece nor"),
        (
            rewrite("vocab.txt", b"[PAD]\n[a]\n[b]\n[UNK]\n[CLS]\n" + b"\n".join(b"%d" % n for n in range(32000))),
            "32005 ids",
        ),
    ],
)
def test_a_folder_that_is_none_of_clips_is_one_error(
    published: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    import_model(str(published), tmp_path / "model")
    before = (tmp_path / "model/model.safetensors").stat()
    damage(published)
    with pytest.raises(ConfigError, match=message):
        import_model(str(published), tmp_path / "model")
    assert (tmp_path / "model/model.safetensors").stat() == before  # what was there stays
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_without_epsilon_is_read_as_published_and_says_so(
    published: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change("model_cfg.text_cfg.norm_kwargs", None)(published)
    import_model(str(published), tmp_path / "model")
    assert "norm_kwargs is missing; read as eps 1e-06" in caplog.text


def test_a_vocabulary_can_be_given(published: Path, tmp_path: Path, vocabulary: Path) -> None:
    (published / "tokenizer.json").unlink()
    import_model(str(published), tmp_path / "model", vocabulary=vocabulary)
    assert clips_pipeline.load(tmp_path / "model").tokenizer("a dog")[0, 2] == 3899


def test_wrong_sources(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder, and no id of a repository"):
        import_model("/nowhere/at/all", tmp_path / "model")
    with pytest.raises(ConfigError, match="is in open_clip's form, of which `clips-pipeline import"):
        clips_pipeline.load(published)
    with pytest.raises(ConfigError, match="is the source itself"):
        import_model(str(published), published)
    with pytest.raises(ConfigError, match=r"--revision main: .* is a folder"):
        import_model(str(published), tmp_path / "model", revision="main")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    (tmp_path / "mine/config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"mine: has other files than what would"):
        import_model(str(published), tmp_path / "mine")
    assert (tmp_path / "mine/letter.txt").is_file()
    assert default_name("UCSC-VLAA/ViT-L-14-CLIPS-224") == "ViT-L-14-CLIPS-224"
    assert default_name("some/folder with blanks/") == "folder-with-blanks"
