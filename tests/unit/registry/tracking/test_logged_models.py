"""Dataset inputs with digests, and LoggedModels that are found by their metrics."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from tests.servers import wait_for

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.index import Index, ShardEntry
from clips_pipeline.registry.tracking import data_inputs
from clips_pipeline.registry.tracking.data_inputs import TRAINING_DATA, check_same_data, log_data
from clips_pipeline.registry.tracking.evaluation_log import log_evaluation
from clips_pipeline.registry.tracking.logged_models import log_checkpoints, log_exported
from clips_pipeline.registry.tracking.run_tracking import RunTracker
from clips_pipeline.registry.versions.gate import GateConfig
from clips_pipeline.registry.versions.register import RegistryConfig, register_model
from clips_pipeline.training.events.event_log import Event

METRIC = "retrieval/scenes/mean_recall@1"


def index(content: str) -> Index:
    splits = {name: (ShardEntry(f"{name}.tar", 3, 9, content + name, "k"),) for name in ("train", "validation", "test")}
    return Index("f", splits, {})


def test_data_is_logged_once_as_an_input_with_its_digest(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_inputs, "load_index", lambda shards: index("a"))
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    for _ in range(2):
        log_data(run_id, tmp_path, ("train", "validation"))
        log_data(run_id, tmp_path, ["test"], "scenes")
    found = {one.tags[0].value: one.dataset for one in client.get_run(run_id).inputs.dataset_inputs}
    assert len(client.get_run(run_id).inputs.dataset_inputs) == 3
    assert {split: dataset.name for split, dataset in found.items()} == {
        "train": TRAINING_DATA,
        "validation": TRAINING_DATA,
        "test": "scenes",
    }
    for split, dataset in found.items():
        assert dataset.digest == index("a").split_version(split)[:36]
        assert json.loads(dataset.source)["uri"] == str(tmp_path)
        assert json.loads(dataset.profile) == {"samples": 3, "data_version": index("a").version}
    check_same_data(run_id, tmp_path, "test", "scenes")
    monkeypatch.setattr(data_inputs, "load_index", lambda shards: index("b"))
    check_same_data(run_id, tmp_path, "test", "photos")
    with pytest.raises(ConfigError, match=r"evaluate\.set_name: 'scenes' has digest"):
        check_same_data(run_id, tmp_path, "test", "scenes")


def test_models_are_found_by_metric_and_final_metrics_are_stored_once(
    store: str, tmp_path: Path, model_folder: Path
) -> None:
    client = MlflowClient()
    experiment = client.create_experiment("found by metric")
    report = tmp_path / "evaluation.html"
    report.write_text("<p>fine</p>")
    runs = []
    for score in (0.3, 0.7):
        (model_folder / "model.safetensors").write_bytes(f"{score}".encode())
        run_id = client.create_run(experiment).info.run_id
        client.log_param(run_id, "train.method", "clips")
        runs.append(run_id)
        # Log everything three times, as after kills.
        for _ in range(3):
            log_exported(run_id, model_folder)
            log_evaluation(run_id, {METRIC: score}, report, {}, model_folder)
    found = mlflow.search_logged_models(
        [experiment], "metrics.`retrieval/scenes/mean_recall_at_1` > 0.5", output_format="list"
    )
    assert [model.source_run_id for model in found] == [runs[1]]
    assert found[0].params["train.method"] == "clips"

    registry = RegistryConfig(name="once", gate=GateConfig(confidence=None))
    for _ in range(2):
        registered = register_model(model_folder, {METRIC: 0.7}, run_id=runs[1], config=registry)
    assert registered.version == 1
    assert found[0].model_id in client.get_model_version("once", "1").source
    points = client.get_metric_history(runs[1], "retrieval/scenes/mean_recall_at_1")
    assert [(point.step, point.value) for point in points] == [(0, 0.7)]
    again = client.get_logged_model(found[0].model_id)
    assert [metric.value for metric in again.metrics] == [0.7]
    assert "mlflow.model.isExternal" not in again.tags


def test_kept_checkpoints_are_found_by_metric(store: str, tmp_path: Path) -> None:
    client = MlflowClient()
    experiment = client.create_experiment("checkpoints")
    run_id = client.create_run(experiment).info.run_id
    folder, recall = tmp_path / "checkpoints", "validation/mean_recall_at_1"
    events: list[Event] = [
        {"kind": kind, "step": step, "time": 1_000.0 + step, **values}
        for step in (4, 8, 12)
        for kind, values in (
            ("step", {"losses": {"total": 20.0 - step}}),
            ("evaluation", {"metrics": {"mean_recall@1": step / 100}}),
            ("checkpoint", {"path": "ba", "seconds": 0.1}),
        )
    ]

    def found(query: str) -> list[str]:
        models = mlflow.search_logged_models([experiment], query, output_format="list")
        return sorted(model.name for model in models)

    with RunTracker(tmp_path / "run", run_id) as tracker:
        for event in events:
            tracker.record(event)
    for steps in ((4, 8), (4, 8), (8, 12)):
        shutil.rmtree(folder, ignore_errors=True)
        for step in steps:
            (folder / f"ba{step}").mkdir(parents=True)
        log_checkpoints(run_id, folder, events)
        assert found("model_type = 'checkpoint'") == sorted(f"checkpoint-{step}" for step in steps)
    assert found(f"metrics.`{recall}` > 0.1") == ["checkpoint-12"]
    assert found("metrics.`train/loss/total` = 12") == ["checkpoint-8"]
    (model,) = mlflow.search_logged_models([experiment], f"metrics.`{recall}` > 0.1", output_format="list")
    assert model.tags["model.folder"] == str(folder / "ba12")
    # The run has each point once.
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, recall)] == [
        (4, 0.04),
        (8, 0.08),
        (12, 0.12),
    ]


def test_system_metrics_are_recorded_if_configured(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from clips_pipeline.registry.tracking.runs import configure_system_metrics

    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    for asked in (True, False):
        configure_system_metrics({"system_metrics": asked, "interval_s": 0.1})
        with mlflow.start_run() as run:
            if asked:
                wait_for(
                    lambda: "system/cpu_utilization_percentage" in MlflowClient().get_run(run.info.run_id).data.metrics
                )
        names = set(MlflowClient().get_run(run.info.run_id).data.metrics)
        assert ("system/cpu_utilization_percentage" in names) == asked
    with pytest.raises(ConfigError, match=r"tracking"):
        configure_system_metrics({"interval_s": 0})
