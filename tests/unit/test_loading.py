"""Python API: `load` and the methods of the loaded model, and their errors."""

import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

import clips_pipeline
from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import ImageConfig, UndecodableImageError
from clips_pipeline.interop.folder import save_model
from clips_pipeline.loading import Clips
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import SIZES
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece

SIZE = 32


def exported(folder: Path, *, captioner: bool = True) -> Path:
    train_wordpiece(["a red square", "a blue circle", "the picture shows a green line"], 120, folder / "tokenizer")
    torch.manual_seed(1)
    tiny = SIZES["tiny"]
    vision, text = replace(tiny.vision, image_size=SIZE, depth=1), replace(tiny.text, depth=1)
    config = replace(tiny, vision=vision, text=text, captioner=tiny.captioner if captioner else None)
    images = ImageConfig(size=SIZE).to_mapping()
    return save_model(ClipsModel(config), folder / "tokenizer", images, folder / "data/06_models/clips")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clips(folder: Path) -> Clips:
    return clips_pipeline.load(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("pictures")
    for name, color in (("red", (200, 30, 30)), ("blue", (20, 40, 210))):
        Image.new("RGB", (50, 40), color).save(place / f"{name}.png")
    return [place / "red.png", place / "blue.png"]


def test_paths_images_and_arrays_have_equal_embeddings(clips: Clips, files: list[Path]) -> None:
    by_path = clips.embed_images(files)
    opened = [Image.open(file) for file in files]
    assert by_path.shape == (2, clips.model.config.embed_dim)
    assert np.allclose(np.linalg.norm(by_path, axis=1), 1.0, atol=1e-5)
    assert np.array_equal(clips.embed_images(opened), by_path)
    assert np.array_equal(clips.embed_images([np.asarray(image) for image in opened]), by_path)
    assert np.array_equal(clips.embed_images(str(files[0])), clips.embed_images([files[0]]))


def test_texts_tokens_and_similarity(clips: Clips, files: list[Path]) -> None:
    texts = ["a red square", "a blue circle"]
    rows = clips.tokenizer(texts)
    assert rows.shape == (2, clips.model.config.text.context_length)
    with torch.no_grad():
        by_hand = clips.model.encode_text(rows).numpy()
    assert np.allclose(clips.embed_texts(texts), by_hand)
    # One text is not a sequence of characters.
    assert clips.tokenizer("a red square").tolist() == rows[:1].tolist()
    assert clips.embed_texts("a red square").shape == (1, clips.model.config.embed_dim)
    assert clips.tokenizer([]).shape == (0, clips.model.config.text.context_length)
    found = clips.similarity(files, texts)
    assert np.allclose(found, clips.embed_images(files) @ clips.embed_texts(texts).T)
    assert clips.tokenizer.decode(rows[0].tolist()) == "a red square"


def test_captions_are_written_without_a_web_caption_and_with_one(clips: Clips, files: list[Path]) -> None:
    written = clips.caption(files)
    assert [type(text) for text in written] == [str, str]
    assert len(clips.caption(files[0], web_caption="a red square")) == 1


def test_a_model_without_captioner_raises(tmp_path: Path, files: list[Path]) -> None:
    clips = clips_pipeline.load(exported(tmp_path, captioner=False))
    with pytest.raises(ValueError, match="no captioner"):
        clips.caption(files)


def test_wrong_types_are_refused_by_name(clips: Clips, files: list[Path]) -> None:
    with pytest.raises(TypeError, match="expected a text or a list of texts, got int '3'"):
        clips.embed_texts(["a", 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="expected a text"):
        clips.tokenizer(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got Tensor \(3, 32, 32\)"):
        clips.embed_images(torch.zeros(3, SIZE, SIZE))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"uint8; got ndarray \(4, 4, 3\) of float64"):
        clips.embed_images(np.zeros((4, 4, 3)))
    with pytest.raises(TypeError, match="expected ids, got the text 'a red cube'"):
        clips.tokenizer.encoder_row("a red cube", 80)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        clips.embed_images("nowhere.png")
    broken = files[0].with_name("broken.png")
    broken.write_bytes(b"no picture")
    with pytest.raises(UndecodableImageError, match=r"broken\.png"):
        clips.embed_images([broken])


def test_images_of_another_size_or_without_a_batch_are_refused(clips: Clips) -> None:
    with pytest.raises(ValueError, match=r"takes a batch \(B, 3, 32, 32\), got \(1, 3, 112, 112\)"):
        clips.model.encode_image(torch.zeros(1, 3, 112, 112))
    with pytest.raises(ValueError, match=r"got \(3, 32, 32\); make a batch of a single image by x\[None\]"):
        clips.model.encode_image(torch.zeros(3, SIZE, SIZE))


def test_a_device_that_cannot_be_used_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device: 'nonsense' cannot be used"):
        clips_pipeline.load(folder, device="nonsense")
    assert clips_pipeline.load(folder, device="auto").device.type in ("cpu", "cuda")


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_lower_precision_gives_float32_embeddings_close_to_those_in_full(
    folder: Path, clips: Clips, files: list[Path], dtype: Literal["bfloat16", "float16"], bound: float
) -> None:
    low = clips_pipeline.load(folder, dtype=dtype)
    assert {parameter.dtype for parameter in low.model.parameters()} == {getattr(torch, dtype)}
    for found, wanted in (
        (low.embed_images(files), clips.embed_images(files)),
        (low.embed_texts(["a red square"]), clips.embed_texts(["a red square"])),
    ):
        assert found.dtype == np.float32
        assert 0 < np.abs(found - wanted).max() < bound
    assert isinstance(low.caption(files[0])[0], str)


def test_an_unknown_precision_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="dtype: 'int4' is unknown; give one of float32, bfloat16, float16"):
        clips_pipeline.load(folder, dtype="int4")  # type: ignore[arg-type]


def test_long_inputs_show_their_progress_where_it_is_wanted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"text {number}" for number in range(9)]
    silent, wanted = clips_pipeline.load(folder, batch_size=2), clips_pipeline.load(folder, batch_size=2, progress=True)
    assert np.array_equal(silent.embed_texts(texts), wanted.embed_texts(texts))
    assert "texts: 9 of 9 texts" in capsys.readouterr().err  # of `wanted` alone: stderr is no terminal here
    silent.embed_texts(texts)
    assert capsys.readouterr().err == ""


def test_exported_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = exported(tmp_path)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o640}


@pytest.mark.parametrize("what", ["wrong folder", "models:/clips@champion"])
def test_a_missing_model_is_one_error_and_leaves_no_file(tmp_path: Path, what: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    code = f"import clips_pipeline; clips_pipeline.load({what!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("clips_pipeline.config.ConfigError: ")
    assert ("config.json: no such file" if what == "wrong folder" else "export MLFLOW_TRACKING_URI") in lines[-1]
    assert len(lines) <= 8, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page", ["README.md", "docs/reference/python-api.md"])
def test_the_documented_lines_run(
    repository: Path, folder: Path, files: list[Path], page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (repository / page).read_text()
    code = next(found for found in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "clips_pipeline" in found)
    monkeypatch.chdir(folder.parents[2])
    for file, name in zip(files, ("dog.jpg", "cat.jpg"), strict=True):
        with Image.open(file) as image:
            image.convert("RGB").save(folder.parents[2] / name)
    assert len([line for line in code.splitlines() if line.strip()]) <= 6
    scope: dict[str, object] = {}
    exec(compile(code, page, "exec"), scope)  # noqa: S102  (the project's own lines)
    assert getattr(scope["similarity"], "shape", None) == (2, 2)
