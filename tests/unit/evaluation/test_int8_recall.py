"""Int8 of an ONNX export is kept or not by recall on a set, which the README states."""

from pathlib import Path

import pytest
from tests.unit.interop.export_models import write_model

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_model
from clips_pipeline.evaluation.int8_recall import Int8Gate
from clips_pipeline.interop.export.export_model import export_model
from clips_pipeline.interop.export.onnx_form import Int8Check
from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), load_tokenizer(tokenizer_folder), "mask")


def test_int8_is_kept_if_recall_stays(model: Path, shards: Path, tmp_path: Path) -> None:
    # Of the folder of 13 images, the first must be the same, whatever int8 does: at most all of them.
    gate, out = Int8Gate(shards, "test", max_drop=1.01), tmp_path / "out"
    differences = export_model(model, out, "onnx", int8=gate)
    assert gate.check is not None
    # In float32 it is the recall that `evaluate` finds.
    config = EvaluationConfig(device="cpu", examples=0, captioning=False)
    assert gate.check.recall == evaluate_model(model, shards, config).metrics["retrieval/scenes/mean_recall@1"]
    assert (gate.check.images, gate.check.captions) == (13, 65)
    assert 0 < differences["image_features_int8"] < 0.2
    assert (out / "vision_int8.onnx").stat().st_size < (out / "vision.onnx").stat().st_size
    readme = (out / "README.md").read_text()
    assert f"mean recall@1 {gate.check.recall:.4f} in float32, {gate.check.int8_recall:.4f} in int8" in readme
    assert "on shards, split test (13 images, 65 captions)" in readme


def test_int8_is_not_written_if_recall_falls(model: Path, shards: Path, tmp_path: Path) -> None:
    # No recall falls by less than -1.
    gate, out = Int8Gate(shards, "test", max_drop=-1.01), tmp_path / "out"
    differences = export_model(model, out, "onnx", int8=gate)
    assert gate.check is not None
    assert not gate.check.kept
    assert sorted(file.name for file in out.glob("*.onnx")) == [
        "text.onnx",
        "text_fp16.onnx",
        "vision.onnx",
        "vision_fp16.onnx",
    ]
    assert not [name for name in differences if "int8" in name]
    assert "There is no int8: mean recall@1" in (out / "README.md").read_text()


def test_the_bound_is_a_fall_of_less() -> None:
    assert Int8Check("set", 1, 1, recall=0.5, int8_recall=0.496, max_drop=0.005).kept
    assert not Int8Check("set", 1, 1, recall=0.5, int8_recall=0.25, max_drop=0.25).kept
    assert Int8Check("set", 1, 1, recall=0.5, int8_recall=0.6, max_drop=0.005).kept


def test_wrong_sets_are_refused_before_anything_is_written(model: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only --to onnx has int8"):
        export_model(model, tmp_path / "out", "open-clip", int8=Int8Gate(shards))
    with pytest.raises(ConfigError, match=r"index\.json"):
        Int8Gate(tmp_path)
    with pytest.raises(ConfigError, match="split 'nothing' is not in the index"):
        Int8Gate(shards, "nothing")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
