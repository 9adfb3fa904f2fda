"""Sentence Transformers, installed aside, loads both folders of a Transformers export and computes the model's features."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from tests.peer_packages import install
from tests.unit.interop.export_models import write_model

import clips_pipeline
from clips_pipeline.interop.export.transformers_form import write_transformers
from clips_pipeline.interop.folder import load_model_folder
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

TEXTS = ["a dog", "A red ball on the grass, beside two dogs.", "word " * 200]
CODE = """
import json, sys
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
both = SentenceTransformer(folder + "/model", trust_remote_code=True)
vision = SentenceTransformer(folder + "/vision")
pictures = [Image.open(folder + "/picture.png")] * 2
np.savez(folder + "/found.npz", texts=both.encode(texts), images=both.encode(pictures), vision=vision.encode(pictures))
assert both.get_embedding_dimension() == vision.get_embedding_dimension() == both.encode(texts).shape[1]
assert "clips_pipeline" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["attend", "mask"])
def test_both_folders_compute_the_features(
    tmp_path: Path, fixtures_dir: Path, monkeypatch: pytest.MonkeyPatch, padding: Literal["attend", "mask"]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(install(tmp_path / "packages", "sentence-transformers==6.2.0")))
    tokenizer = WordPieceTokenizer.from_vocab(fixtures_dir / "bert_base_uncased_vocab.txt")
    model, out = write_model(tmp_path, tokenizer, padding, framing="squash"), tmp_path / "out"
    out.mkdir()
    write_transformers(load_model_folder(model), out)
    # Of the model's size, so that image processors agree.
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    picture.save(out / "picture.png")
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE, str(out), json.dumps(TEXTS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found, ours = np.load(out / "found.npz", allow_pickle=False), clips_pipeline.load(model)
    np.testing.assert_allclose(found["texts"], ours.embed_texts(TEXTS), atol=1e-6)
    for name in ("images", "vision"):
        np.testing.assert_allclose(found[name], ours.embed_images([picture] * 2), atol=1e-6)


def test_every_module_has_its_files(tmp_path: Path, fixtures_dir: Path) -> None:
    tokenizer = WordPieceTokenizer.from_vocab(fixtures_dir / "bert_base_uncased_vocab.txt")
    (tmp_path / "out").mkdir()
    write_transformers(load_model_folder(write_model(tmp_path, tokenizer)), tmp_path / "out")
    for name, count in (("vision", 6), ("model", 1)):
        modules = json.loads((tmp_path / "out" / name / "modules.json").read_text())
        assert len(modules) == count
        assert all((tmp_path / "out" / name / module["path"] / "config.json").is_file() for module in modules)
