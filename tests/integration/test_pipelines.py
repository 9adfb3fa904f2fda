"""Kedro runs in a copy of the project: commands of a user, and their outputs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from mlflow.entities import Run
from tests.kedro_project import client, kedro
from tests.unit.interop.published import save_published

import clips_pipeline
from clips_pipeline.data.scenes.questions import SUBSETS

pytestmark = [
    pytest.mark.slow,
    # MLflow uses SQLAlchemy in a way that the locked version deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]


def children(project: Path) -> list[Run]:
    """Return the MLflow runs of trials."""
    experiments = [experiment.experiment_id for experiment in client(project).search_experiments()]
    return [run for run in client(project).search_runs(experiments) if "mlflow.parentRunId" in run.data.tags]


def test_pretrain_twice_prepares_trains_and_registers_once(project: Path) -> None:
    first = kedro(project, "--pipelines", "pretrain", "--env", "smoke")
    metrics = json.loads((project / "data/smoke/08_reporting/metrics.json").read_text())
    assert "retrieval/scenes/mean_recall@1" in metrics
    assert {f"compositionality/scenes/{name}_accuracy" for name in (*SUBSETS, "mean")} <= set(metrics)
    report = (project / "data/smoke/08_reporting/report.html").read_text()
    assert '<h2 id="compositionality">' in report
    assert "<bdi>compositionality/scenes/swap_color_accuracy</bdi>" in report
    assert "mlflow ui" in first
    assert "optuna-dashboard" in first
    second = kedro(project, "--pipeline", "pretrain", "--env", "smoke")
    assert "shards: up to date" in second
    assert json.loads((project / "data/smoke/08_reporting/metrics.json").read_text()) == metrics
    versions = client(project).search_model_versions("name = 'clips-smoke'")
    assert [int(version.version) for version in versions] == [1]
    run = client(project).get_run(versions[0].run_id)
    assert run.info.run_name == "pretrain smoke clips"
    inputs = {one.tags[0].value: one.dataset.name for one in run.inputs.dataset_inputs}
    assert inputs == {"train": "training data", "validation": "training data", "test": "scenes"}
    (model,) = client(project).search_logged_models(
        [run.info.experiment_id], "metrics.`retrieval/scenes/mean_recall_at_1` >= 0"
    )
    assert model.source_run_id == run.info.run_id
    checkpoints = client(project).search_logged_models(
        [run.info.experiment_id],
        f"source_run_id = '{run.info.run_id}' AND metrics.`validation/mean_recall_at_1` >= 0 AND metrics.`train/loss/total` > 0",
    )
    assert {one.model_type for one in checkpoints} == {"checkpoint"}
    assert all(Path(one.tags["model.folder"]).is_dir() for one in checkpoints)
    # Evaluated and registered twice, stored once.
    for name in (name for name in run.data.metrics if name.startswith("retrieval/")):
        assert len(client(project).get_metric_history(run.info.run_id, name)) == 1
    assert {"train/loss/contrastive", "train/loss/caption"} <= set(run.data.metrics)
    artifacts = {artifact.path for artifact in client(project).list_artifacts(run.info.run_id)}
    assert {"data_health.html", "evaluation.html", "report.html", "captions"} <= artifacts
    assert "data_health.html: up to date" in " ".join(second.split())
    history = client(project).get_metric_history(run.info.run_id, "train/loss/total")
    assert [point.step for point in history] == sorted({point.step for point in history})


def test_search_creates_an_environment_and_child_runs(project: Path) -> None:
    kedro(project, "--pipelines", "prepare", "--env", "smoke")
    kedro(project, "--pipelines", "search", "--env", "smoke")
    best = yaml.safe_load((project / "conf/best/parameters.yml").read_text())
    assert {"captions", "loss"} < set(best["train"])
    report = project / "data/smoke/08_reporting/search"
    assert "Uncertainty" in (report / "summary.md").read_text()
    assert len(list(report.glob("*.html"))) == 6
    assert len(list((report / "plotly").glob("*.json"))) == 6
    storage = f"sqlite:///{project / 'data/smoke/07_model_output/search/study.db'}"
    study = optuna.load_study(study_name="clips", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    for trial in study.trials:
        run = client(project).get_run(trial.user_attrs["mlflow_run_id"])
        assert run.data.tags["optuna.trial"] == str(trial.number)
        assert run.info.status == "FINISHED"
    parents = {run.data.tags["mlflow.parentRunId"] for run in children(project)}
    # The budget is used up: another start trains nothing and opens no run.
    kedro(project, "--pipelines", "search", "--env", "smoke")
    assert len(optuna.load_study(study_name="clips", storage=storage).trials) == 2
    assert {run.data.tags["mlflow.parentRunId"] for run in children(project)} == parents
    assert len(children(project)) == 2
    (parent,) = parents
    artifacts = {artifact.path for artifact in client(project).list_artifacts(parent)}
    assert {"best_parameters.yml", "search"} <= artifacts
    # `best` trains on the data of the search, with the other settings of its environment, and has its own results.
    kedro(project, "--pipelines", "train", "--env", "best")
    (spec,) = [json.loads(file.read_text()) for file in (project / "data/best/06_models/runs").glob("*/run_spec.json")]
    assert Path(spec["shards"]).resolve() == (project / "data/smoke/03_primary/shards").resolve()
    assert spec["train"]["samples"] == 192
    assert spec["train"]["captions"]["fragment"].items() >= best["train"]["captions"]["fragment"].items()
    assert (project / "data/best/06_models/clips/model.safetensors").is_file()


def test_real_photos_are_memorized(project: Path, fixtures_dir: Path) -> None:
    folder = f"prepare.source.folder.images={fixtures_dir / 'images'}"
    captions = f"prepare.source.folder.captions={fixtures_dir / 'captions.json'}"
    kedro(project, "--pipelines", "pretrain", "--env", "photos", "--params", f"{folder},{captions}")
    metrics = json.loads((project / "data/photos/08_reporting/metrics.json").read_text())
    assert metrics["retrieval/photos/image_to_text_recall@1"] >= 0.95
    assert metrics["retrieval/photos/text_to_image_recall@1"] >= 0.95


def test_finetune_starts_from_the_pretrained_model(project: Path) -> None:
    kedro(project, "--pipelines", "pretrain", "--env", "smoke")
    folder = project / "data/smoke/06_models"
    before = (folder / "clips/model.safetensors").read_bytes()
    metrics = (project / "data/smoke/08_reporting/metrics.json").read_text()
    shown = kedro(project, "--pipeline", "finetune", "--env", "smoke")
    assert "registered as" in shown
    assert (folder / "clips/model.safetensors").read_bytes() == before
    assert (project / "data/smoke/08_reporting/metrics.json").read_text() == metrics
    assert json.loads((folder / "finetuned/config.json").read_text())["model"]["vision"]["image_size"] == 128
    newest = max(client(project).search_model_versions("name = 'clips-smoke'"), key=lambda v: int(v.version))
    run = client(project).get_run(newest.run_id)
    assert run.data.params["finetune.train.model.image_size"] == "128"
    # A next stage can start from the registered model, or from its run.
    for start in (f"models:/clips-smoke/{newest.version}", newest.run_id):
        kedro(project, "--pipeline", "finetune", "--env", "smoke", "--params", f"finetune.start={start}")
    kept = list((folder / "runs/initial").iterdir())
    assert len(kept) == 2


def test_an_interrupted_study_resumes_and_trains_nothing_twice(project: Path) -> None:
    kedro(project, "--pipelines", "prepare", "--env", "smoke")
    folder = project / "data/smoke/07_model_output/study"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # Several trainings have unfinished checkpoints, and differ in parameters that may and may not change.
    often = ("--params", "train.every.checkpoint=1,study.samples=320")
    study = ("--pipelines", "study", "--env", "smoke", *often)
    command = [sys.executable, "-m", "kedro", "run", *study]
    for end in (signal.SIGTERM, signal.SIGKILL):
        known = len(list(folder.glob("results/*.json")))
        with (project / "study.log").open("wb") as output:
            running = subprocess.Popen(command, cwd=project, stdout=output, stderr=subprocess.STDOUT, env=environment)
        while running.poll() is None and len(list(folder.glob("results/*.json"))) <= known:
            time.sleep(0.1)
        assert running.poll() is None, (project / "study.log").read_text()
        running.send_signal(end)
        assert running.wait(timeout=120) != 0
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("results/*.json")}
    assert 2 <= len(kept) < 5
    said = kedro(project, *study)
    results = list(folder.glob("results/*.json"))
    # Six rows; method clips and the whole web caption share one training.
    assert len(results) == 5
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    shown = project / "data/smoke/08_reporting/study"
    assert f"read the study summary:\n  {shown.relative_to(project) / 'README.md'}\n" in said
    rows = (shown / "runs.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    assert "## Shorter web captions" in (shown / "README.md").read_text()
    for figure in ("lengths.png", "methods.png"):
        assert (shown / figure).read_bytes().startswith(b"\x89PNG")


def test_published_weights_are_imported_evaluated_trained_on_exported_and_loaded(
    project: Path, tmp_path: Path, fixtures_dir: Path
) -> None:
    published = save_published(tmp_path / "published", fixtures_dir / "bert_base_uncased_vocab.txt")
    shown = kedro(project, str(published), "--name", "published", "--env", "smoke", command="import")
    assert "models:/published/1: registered" in shown
    uri, folder = "models:/published/1", project / "data/06_models/imported/published"
    tokenizer = f"prepare.tokenizer.kind=wordpiece,prepare.tokenizer.vocabulary_file={folder / 'vocab.txt'}"
    kedro(project, "--pipelines", "prepare", "--env", "smoke", "--params", tokenizer)
    kedro(project, "--pipelines", "evaluate", "--env", "smoke", "--params", f"evaluate.model={uri}")
    metrics = json.loads((project / "data/smoke/08_reporting/evaluations/models-published-1/metrics.json").read_text())
    assert "retrieval/scenes/mean_recall@1" in metrics
    sizes = (
        "{base: tiny, vocab_size: 32000, embed_dim: 16, text: {width: 24, depth: 2, heads: 3}, "
        "vision: {width: 40, depth: 2, heads: 2, image_size: 32, patch_size: 16}}"
    )
    model = f"train.model={{size: {sizes}, image_size: 32, padding: attend, initial_weights: '{uri}'}}"
    others = "train.samples=32,train.images.framing=squash"
    kedro(project, "--pipelines", "train", "--env", "smoke", "--params", f"{tokenizer},{model},{others}")
    trained = clips_pipeline.load(project / "data/smoke/06_models/clips")
    assert trained.model.captioner is not None  # which the published weights lack
    images = np.zeros((2, 40, 50, 3), np.uint8)
    assert trained.similarity(list(images), ["a red square"]).shape == (2, 1)
    shown = kedro(project, uri, str(tmp_path / "out"), "--to", "open-clip", "--env", "smoke", command="export")
    readme = (tmp_path / "out/README.md").read_text()
    assert "license: apache-2.0" in readme
    assert "this project did not train" in readme
