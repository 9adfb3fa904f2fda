"""Imported weights in a real SQLite store: version, lineage, card, and what the README of an export says of them."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.open_clip_folder import Origin
from clips_pipeline.registry.lineage.record import GitState, Lineage, describe
from clips_pipeline.registry.lineage.tags import load_record
from clips_pipeline.registry.versions.packaging import fetch_model_folder
from clips_pipeline.registry.versions.provenance import data_license, provenance_of
from clips_pipeline.registry.versions.register_imported import register_imported

ORIGIN = Origin("UCSC-VLAA/ViT-tiny", "open_clip_pytorch_model.bin", "c" * 64, "d" * 40, "apache-2.0")
LINEAGE = Lineage(GitState("a" * 40, False, "main"), "smoke")


def test_a_version_says_where_it_came_from(store: str, model_folder: Path) -> None:
    number = register_imported(model_folder, "published", ORIGIN, LINEAGE, b"")
    version = MlflowClient().get_model_version("published", str(number))
    assert version.tags["import.revision"] == "d" * 40
    assert version.tags["import.weights_sha256"] == "c" * 64
    assert version.aliases == []
    assert MlflowClient().get_run(version.run_id).data.params["import.source"] == "UCSC-VLAA/ViT-tiny"
    text = describe(load_record("published", str(number)).lineage)
    assert "import.source = UCSC-VLAA/ViT-tiny" in text
    assert f"commit       {'a' * 40}" in text
    folder = fetch_model_folder(f"models:/published/{number}")
    assert (folder / "vocab.txt").read_bytes() == (model_folder / "vocab.txt").read_bytes()
    known = provenance_of(f"models:/published/{number}")
    assert known.card is not None
    assert "did not train" in known.card
    assert known.data is None
    # The same weights once more are the same version.
    assert register_imported(model_folder, "published", ORIGIN, LINEAGE, b"") == number
    (model_folder / "model.safetensors").write_bytes(b"others")
    assert register_imported(model_folder, "published", ORIGIN, LINEAGE, b"") == number + 1


def test_a_name_that_mlflow_does_not_accept_is_refused_before_anything_is_written(
    store: str, model_folder: Path
) -> None:
    with pytest.raises(ConfigError, match="name"):
        register_imported(model_folder, "a/b:c", ORIGIN, LINEAGE, b"")


def test_the_license_of_data_is_told_where_it_is_known() -> None:
    assert "Apache-2.0" in str(data_license({"prepare": {"source": {"kind": "scenes"}}}))
    assert "CC-BY-4.0" in str(data_license({"prepare": {"source": {"kind": "recaption"}}}))
    assert data_license({"prepare": {}}) is None
    assert data_license({}) is None
