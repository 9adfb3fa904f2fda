"""Evaluation results on the MLflow run of a model."""

import math
from pathlib import Path

import pandas as pd
from mlflow.tracking import MlflowClient

from clips_pipeline.evaluation.per_item.item_table import COMPOSITIONALITY_COLUMNS, tables_by_set
from clips_pipeline.registry.tracking.evaluation_log import fetch_items, log_evaluation, log_report


def test_a_report_is_an_artifact_of_the_run(store: str, tmp_path: Path) -> None:
    report = tmp_path / "data_health.html"
    report.write_text("<p>fine</p>")
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    log_report(run_id, report)
    log_report(run_id, report)
    assert [file.path for file in client.list_artifacts(run_id)] == ["data_health.html"]
    assert Path(client.download_artifacts(run_id, "data_health.html")).read_text() == "<p>fine</p>"


def test_results_of_each_set_are_read_back(store: str, tmp_path: Path) -> None:
    report = tmp_path / "evaluation.html"
    report.write_text("<p>fine</p>")
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    images = pd.DataFrame(
        {
            "key": ["001", "None"],
            "image_to_text_rank": [0, 3],
            "text_to_image_ranks": [[0], [4, 0]],
            "zero_shot_rank": [None, None],
            "caption_nats": [0.1, 0.2],
            "caption_tokens": [1, 2],
        }
    )
    pairs = [
        {"set": "winoground", "key": str(n), "text_right": True, "image_right": n == 1, "set_version": "v"}
        for n in (1, 2)
    ]
    table = pd.DataFrame(pairs, columns=list(COMPOSITIONALITY_COLUMNS))
    log_evaluation(run_id, {"winoground/all/text_score": 1.0}, report, tables_by_set("scenes", images, table))
    scenes, winoground = (fetch_items(client, run_id, name) for name in ("scenes", "winoground"))
    assert scenes is not None
    assert winoground is not None
    assert scenes.keys == ("001", "None")
    assert scenes.metric_of("caption/scenes/loss").value() == math.fsum([0.1, 0.2]) / 3
    assert [winoground.metric_of(f"winoground/all/{name}_score").value() for name in ("text", "image", "group")] == [
        *(1.0, 0.5, 0.5),
    ]
    assert fetch_items(client, run_id, "sugarcrepe") is None


def test_a_training_that_was_not_tracked_has_no_run(tmp_path: Path) -> None:
    log_report(None, tmp_path / "not even there.html")
