"""An export for Transformers is read by version 4 as by the installed version 5."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.peer_packages import install
from tests.unit.interop.export_models import write_model

from clips_pipeline.interop.export.export_model import export_model
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

pytestmark = pytest.mark.slow

PACKAGES = ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2")


def test_version_4_computes_the_same(tmp_path: Path, fixtures_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "packages"
    for package in PACKAGES:
        install(packages, package)
    monkeypatch.setenv("PYTHONPATH", str(packages))  # of the process that checks the export
    version = [sys.executable, "-P", "-c", "import transformers; print(transformers.__version__)"]
    assert subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip() == "4.57.6"
    tokenizer = WordPieceTokenizer.from_vocab(fixtures_dir / "bert_base_uncased_vocab.txt")
    model = write_model(tmp_path, tokenizer, "mask", framing="squash")
    differences = export_model(model, tmp_path / "out", "transformers")
    assert max(differences[name] for name in ("image_features", "text_features", "tokens", "pooled")) < 1e-5
