"""Exports: written and compared by a fresh process of the other library, or refused with the reason."""

import dataclasses
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.unit.interop.export_models import write_model

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.interop.export.export_model import FORMS, export_model
from clips_pipeline.interop.export.readme import Provenance
from clips_pipeline.interop.folder import load_model_folder
from clips_pipeline.interop.open_clip_folder import load_open_clip_folder
from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

MakeModel = Callable[..., Path]
RESULTS = ("image_features", "text_features", "pixels")


@pytest.fixture
def make_model(tmp_path: Path, fixtures_dir: Path) -> MakeModel:
    def make(padding: Literal["attend", "mask"] = "attend", kind: str = "wordpiece", **others: Any) -> Path:
        tokenizer: Tokenizer = WordPieceTokenizer.from_vocab(fixtures_dir / "bert_base_uncased_vocab.txt")
        if kind == "clip_bpe":
            tokenizer = ClipBpeTokenizer.from_merges(fixtures_dir / "bpe_simple_vocab_16e6.txt.gz")
        return write_model(tmp_path, tokenizer, padding, **others)

    return make


@pytest.mark.parametrize(
    ("form", "padding", "framing", "kind"),
    [
        ("open-clip", "attend", "squash", "clip_bpe"),
        ("open-clip", "attend", "crop", "wordpiece"),
        ("onnx", "attend", "squash", "clip_bpe"),
        ("onnx", "mask", "crop", "wordpiece"),
        ("transformers", "attend", "squash", "wordpiece"),
        ("transformers", "mask", "crop", "clip_bpe"),
    ],
)
def test_the_other_library_computes_the_same(
    make_model: MakeModel, tmp_path: Path, form: str, padding: str, framing: str, kind: str
) -> None:
    out = tmp_path / "out"
    model = make_model(padding, kind, framing=framing, interpolation="bicubic")
    differences = export_model(model, out, form, Provenance("# version 3\n\nrecall and data"))
    assert max(differences["image_features"], differences["text_features"]) < 1e-6
    # A center crop after rounding is off by up to half a pixel, which is 20 steps where the picture is steepest.
    assert differences["pixels"] <= (1.01 if framing == "squash" else 20)
    text = (out / "README.md").read_text()
    assert f"{differences['image_features']:.1e}" in text
    assert "recall and data" in text
    assert model_digest(model) in text
    assert not {"{{", "{%"} & set(text.split())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("form", ["open-clip", "transformers"])
def test_the_bias_of_the_sigmoid_loss_is_exported(make_model: MakeModel, tmp_path: Path, form: str) -> None:
    model = make_model(changes={"contrastive": "sigmoid"})
    differences = export_model(model, tmp_path / "out", form)
    assert differences["logit_bias"] < 1e-6
    if form == "open-clip":
        bias = load_open_clip_folder(tmp_path / "out").model.logit_bias
        assert bias is not None
        assert float(bias) == pytest.approx(float(load_model_folder(model).model.logit_bias))


def test_a_model_without_a_text_tower_gives_its_vision_tower_alone(make_model: MakeModel, tmp_path: Path) -> None:
    model, out = make_model(changes={"text_tower": False}), tmp_path / "out"
    for form in ("open-clip", "onnx"):
        with pytest.raises(ConfigError, match=rf"--to {form}: this form has a text tower, .* use --to transformers"):
            export_model(model, out, form)
    differences = export_model(model, out, "transformers")
    assert set(differences) == {"tokens", "pixels"}
    assert differences["tokens"] < 1e-5
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "vision"]
    assert "text tower" not in (out / "README.md").read_text()


def test_the_example_in_the_readme_of_onnx_runs(make_model: MakeModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_model(make_model("mask", framing="crop"), out, "onnx")
    example = re.search(r"\n\n((?: {4}.*\n|\n)+)", (out / "README.md").read_text())
    assert example is not None
    Image.new("RGB", (50, 40), "red").save(out / "dog.jpg")
    code = textwrap.dedent(example[1]) + "assert similarity.shape == (1, 2)\nassert abs(similarity).max() <= 1.0001\n"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hidden_padding_is_refused_where_a_form_cannot_hide_it(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"open-clip: the model has train\.model\.padding 'mask'.*--to transformers"):
        export_model(make_model("mask"), tmp_path / "out", "open-clip")
    assert not (tmp_path / "out").exists()


def test_an_export_that_computes_something_else_is_not_kept(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = make_model(), tmp_path / "out"
    export_model(model, out, "open-clip")
    before = (out / "open_clip_model.safetensors").read_bytes()
    form = FORMS["open-clip"]

    def damage(loaded: Any, folder: Path) -> None:
        form.write(loaded, folder)
        file = folder / "open_clip_model.safetensors"
        weights = load_file(file)
        weights["visual.proj"] += 1e-3
        save_file(weights, file)

    monkeypatch.setitem(FORMS, "open-clip", dataclasses.replace(form, write=damage))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"computes other image_features \(difference \d\.\de-0\d"):
        export_model(model, out, "open-clip")
    assert (out / "open_clip_model.safetensors").read_bytes() == before  # what was there stays


def test_a_folder_that_cannot_be_loaded_is_not_kept(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_nothing(loaded: Any, folder: Path) -> None:
        """Leave the folder empty."""

    broken = dataclasses.replace(FORMS["transformers"], write=write_nothing)
    monkeypatch.setitem(FORMS, "transformers", broken)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="transformers cannot load the export"):
        export_model(make_model(), tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


def test_what_a_foreign_folder_says_of_its_origin_stays_in_its_cell(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clips_pipeline.interop.export.export_model._compare", lambda *_: dict.fromkeys(RESULTS, 0.0))
    model = make_model()
    config = json.loads((model / "config.json").read_text())
    origin = {"source": "x/a` |\n\n# Title", "license": "mit\nx: y", "weights": 3}
    (model / "config.json").write_text(json.dumps(config | {"origin": origin}))
    export_model(model, tmp_path / "out", "open-clip")
    readme = (tmp_path / "out/README.md").read_text()
    assert "| imported from | `a # Title` |" in readme
    assert "\nlicense:" not in readme
    # A folder of something else is not replaced.
    (tmp_path / "home").mkdir()
    (tmp_path / "home/README.md").write_text("# My project\n")
    with pytest.raises(ConfigError, match="home: has other files than what would replace it"):
        export_model(model, tmp_path / "home", "open-clip")


def test_wrong_arguments(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(ConfigError, match="--to onxx: unknown; known: open-clip, onnx, transformers"):
        export_model(model, tmp_path / "out", "onxx")
    with pytest.raises(ConfigError, match="is the model itself"):
        export_model(model, model, "open-clip")
    with pytest.raises(ConfigError, match="no such file"):
        export_model(tmp_path / "nowhere", tmp_path / "out", "open-clip")
    assert (model / "model.safetensors").is_file()


def test_the_command_needs_no_project(make_model: MakeModel, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("clips-pipeline")), "export"]
    model = make_model("mask")
    done = subprocess.run(
        [*command, str(model), "out", "--to", "transformers"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "text_features: largest difference" in done.stdout
    config = json.loads((tmp_path / "out/model/config.json").read_text())
    assert config["text"]["hidden_id"] == 0
    assert "before you publish" in (tmp_path / "out/README.md").read_text()
    done = subprocess.run(
        [*command, str(model), "other", "--to", "open-clip"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "cannot hide padding" in done.stderr
    assert "Traceback" not in done.stderr
