"""Evaluation results on the MLflow run of a model."""

import csv
import math
import re
from pathlib import Path

import pandas as pd
from mlflow.tracking import MlflowClient

from clips_pipeline.evaluation.per_item.item_table import (
    COMPOSITIONALITY_COLUMNS,
    read_items,
    rows_from_table,
    spreadsheet_safe,
    tables_by_set,
)
from clips_pipeline.registry.tracking.evaluation_log import fetch_items, log_evaluation, log_report
from clips_pipeline.registry.tracking.suite_log import log_set_items, log_suite


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


def test_keys_that_a_spreadsheet_would_run_are_escaped_in_the_file_and_read_back_exactly(
    store: str, tmp_path: Path
) -> None:
    keys = ["=HYPERLINK(1)", "+1", "-2+3", "@SUM(1)", "'=quoted", "''-two", "'plain", "it's", "-3", "a=b", ""]
    rows = [
        {
            "key": key,
            "image_to_text_rank": 0,
            "text_to_image_ranks": [0],
            "zero_shot_rank": None,
            "caption_nats": -0.5,
            "caption_tokens": 1,
        }
        for key in keys
    ]
    table = spreadsheet_safe(pd.DataFrame(rows))
    assert [row["key"] for row in rows_from_table(table)][:-1] == keys[:-1]
    file = tmp_path / "items.csv"
    table.to_csv(file, index=False)
    cells = [cell for line in csv.reader(file.read_text().splitlines()) for cell in line]
    assert [cell for cell in cells if cell[:1] in ("=", "+", "-", "@") and not re.fullmatch(r"-[0-9.]+", cell)] == []
    assert read_items(file).keys[:-1] == tuple(keys[:-1])


def test_a_training_that_was_not_tracked_has_no_run(tmp_path: Path) -> None:
    log_report(None, tmp_path / "not even there.html")


def test_a_suite_of_more_metrics_than_one_request_may_have(store: str, tmp_path: Path) -> None:
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "suite.md").write_text("| a |")
    metrics = {f"ours/retrieval/{number}/mean_recall@1": number / 2500 for number in range(2500)}
    log_suite(run_id, metrics, tmp_path / "suite")
    log_set_items(
        run_id, None, "winoground", [{"set": "winoground", "key": "1", "text_right": True, "image_right": False}]
    )
    log_set_items(
        run_id, "ours", "winoground", [{"set": "winoground", "key": "=1", "text_right": True, "image_right": True}]
    )
    logged = client.get_run(run_id).data.metrics
    assert len(logged) == 2500
    assert logged["ours/retrieval/7/mean_recall_at_1"] == 7 / 2500
    assert [file.path for file in client.list_artifacts(run_id, "suite")] == ["suite/suite.md"]
    found = fetch_items(client, run_id, "winoground")
    assert found is not None
    assert found.values()["winoground/all/group_score"] == 0
    assert client.list_artifacts(run_id, "per_item/ours")[0].path == "per_item/ours/winoground.csv"
    log_suite(None, metrics, tmp_path / "suite")
    log_set_items(None, None, "winoground", [])
