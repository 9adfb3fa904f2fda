"""The report of a version from a real store: the comparison with the champion, and notes where there is none."""

import re
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from tests.unit.reports.data.hostile_texts import TEXTS, Words, hostile_shards
from tests.unit.reports.model.model_report_data import METRIC, report_data, rows

from clips_pipeline.config import ConfigError, to_mapping
from clips_pipeline.registry.versions.model_report import write_model_report
from clips_pipeline.registry.versions.register import Registration, RegistryConfig, register_model
from clips_pipeline.reports.data.data_health import HealthConfig, write_data_health
from clips_pipeline.text.caption_rows import CaptionConfig


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("prepared")
    hostile_shards(folder / "shards")
    health = write_data_health(folder / "shards", Words(), CaptionConfig(), HealthConfig(), folder / "data_health.html")
    return folder / "shards", health


def registered(folder: Path, found: int, name: str, images: int = 40) -> tuple[Registration, pd.DataFrame]:
    (folder / "model.safetensors").write_bytes(bytes([found]))
    items = pd.DataFrame(rows(found, images))
    return register_model(folder, {METRIC: found / images}, config=RegistryConfig(name), items={"scenes": items}), items


def report(
    registration: Registration,
    items: pd.DataFrame,
    prepared: tuple[Path, Path],
    file: Path,
    others=None,
    parameters=None,
    **changes,
) -> str:
    history = pd.DataFrame(
        [{"step": 2, "samples": 32, "loss_caption": 6.5, "loss_contrastive": 2.0}, {"step": 4, "samples": 64}]
    )
    shown = to_mapping(report_data(TEXTS[:2])) | changes
    run = {"run_id": registration.run_id, "spec": "abc123", "parameters": parameters or {"train": {}}}
    metrics = {
        METRIC: float(MlflowClient().get_run(registration.run_id).data.metrics["retrieval/scenes/mean_recall_at_1"])
    }
    shards, health = prepared
    written = write_model_report(
        registration, METRIC, metrics, {"scenes": items, **(others or {})}, shown, run, history, health, shards, file
    )
    assert written == file
    # Line breaks come from the template.
    return " ".join(file.read_text(encoding="utf-8").split())


def test_the_first_version_is_not_compared(store, model_folder, prepared, tmp_path):
    registration, items = registered(model_folder, 10, "alone")
    html = report(registration, items, prepared, tmp_path / "report.html")
    assert "<h1>alone, version 1</h1>" in html
    assert "Promoted to champion.</strong> <bdi>First champion" in html
    assert "This version was the first champion" in html
    assert "won : lost" not in html
    assert "chance level, log(batch size)" in html
    sigmoid = {"train": {"loss": {"contrastive": "sigmoid"}}}
    again = report(registration, items, prepared, tmp_path / "report.html", parameters=sigmoid)
    assert "chance level, log(batch size)" not in again
    assert "report.html" in {file.path for file in MlflowClient().list_artifacts(registration.run_id)}


def test_the_winner_is_compared_with_the_champion_it_beat(store, model_folder, prepared, tmp_path):
    registered(model_folder, 5, "beaten")
    registration, items = registered(model_folder, 35, "beaten")
    assert registration.promoted
    for _ in range(2):
        # When written again, it is still compared with the other version, not with itself.
        html = report(registration, items, prepared, tmp_path / "report.html")
        assert "The champion at registration was beaten, version 1; both were evaluated on the same images." in html
        assert "▲ significantly better than the champion" in html
        assert re.search(r'<td class="number">0.0938</td><td class="number">▲ \+0.5625</td>', html)
    assert f"http://127.0.0.1:5000/#/experiments/0/runs/{registration.run_id}" in html
    assert "http://127.0.0.1:5000/#/models/beaten/versions/2" in html
    assert "abc123" in html
    # The first finding of the data health report.
    assert "<script>" not in html
    assert "of the samples of the source are unusable" in html


def test_results_on_other_images_are_reported_and_not_compared(store, model_folder, prepared, tmp_path):
    registered(model_folder, 5, "other")
    registration, items = registered(model_folder, 35, "other", images=50)
    html = report(registration, items, prepared, tmp_path / "report.html")
    assert not registration.promoted
    assert "different items" in html
    assert "Not compared with other, version 1." in html
    assert "significantly" not in html


def test_a_set_with_other_files_is_reported_and_the_rest_compared(store, model_folder, prepared, tmp_path):
    def pairs(version: str) -> pd.DataFrame:
        found = {"key": ["1", "2"], "text_right": [True, False], "image_right": [False, False]}
        return pd.DataFrame({"set": "winoground", **found, "set_version": version})

    for found, version in ((5, "v"), (35, "w")):
        (model_folder / "model.safetensors").write_bytes(bytes([found]))
        tables = {"scenes": pd.DataFrame(rows(found)), "winoground": pairs(version)}
        last = register_model(model_folder, {METRIC: found / 40}, config=RegistryConfig("files"), items=tables)
    html = report(last, tables["scenes"], prepared, tmp_path / "report.html", others=tables)
    assert "The champion at registration was files, version 1; both were evaluated on the same images." in html
    assert "Not compared with files, version 1 on winoground: the two models were evaluated on different data" in html
    assert "▲ significantly better than the champion" in html


def test_malformed_report_data_is_refused_by_key(store, model_folder, prepared, tmp_path):
    registration, items = registered(model_folder, 10, "shapeless")
    with pytest.raises(ConfigError, match=r"report_data\.worst: unknown key"):
        report(registration, items, prepared, tmp_path / "report.html", worst=[])
    assert not (tmp_path / "report.html").exists()


def test_links_point_to_the_configured_server(store, model_folder, prepared, tmp_path, monkeypatch):
    registration, items = registered(model_folder, 10, "served")
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "https://me:secret@mlflow.example")
    html = report(registration, items, prepared, tmp_path / "report.html")
    assert f'href="https://mlflow.example/#/experiments/0/runs/{registration.run_id}"' in html
    assert "secret" not in html
    assert "make mlflow-ui" not in html
