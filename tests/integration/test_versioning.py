"""Restore a registered version, and evaluate in a fresh clone with data from a remote, on the smoke environment."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kedro_project import client, copy_tracked
from tests.servers import s3_server

pytestmark = [
    pytest.mark.slow,
    # MLflow uses SQLAlchemy in a way that the locked version deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]
STAGES = "conf/smoke/dvc.yaml"
METRICS = "data/smoke/08_reporting/metrics.json"
SECRETS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")


def run(folder: Path, *command: str, status: int = 0) -> str:
    """Run a command in a checkout, with that checkout's sources."""
    environment = {**os.environ, **SECRETS, "COLUMNS": "240", "PYTHONPATH": str(folder / "src")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    whole = [sys.executable, "-m", *command] if command[0] in ("kedro", "dvc") else list(command)
    done = subprocess.run(whole, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def commit(folder: Path, message: str) -> str:
    run(folder, "git", "add", "-A")
    run(folder, "git", *IDENTITY, "commit", "-q", "-m", message)
    return run(folder, "git", "rev-parse", "HEAD").strip()


def is_clean(folder: Path) -> bool:
    return "up to date" in run(folder, "dvc", "status", STAGES)


def versions(project: Path) -> dict[int, Any]:
    found = client(project).search_model_versions("name = 'clips-smoke'")
    return {int(version.version): version for version in found}


@pytest.fixture(scope="module")
def project(repository: Path, module_folder: Path) -> Path:
    """A separate repository with stages for the smoke environment, and three versions:

    1 from a commit; 2 with a command-line parameter and uncommitted changes; 3 by `dvc repro`.
    """
    copy = copy_tracked(repository, module_folder / "project")
    run(copy, "git", "init", "-q", "-b", "main")
    run(copy, "kedro", "dvc", "sync", "--env", "smoke")
    run(copy, "kedro", "dvc", "check")
    commit(copy, "stages for smoke")

    run(copy, "kedro", "run", "--env", "smoke")
    assert is_clean(copy)
    shutil.copy2(copy / METRICS, copy.parent / "metrics-1.json")

    evaluate = copy / "src/clips_pipeline/pipelines/evaluate/nodes.py"
    before = evaluate.read_text()
    evaluate.write_text(before + "\n# not committed\n")
    (copy / "src/clips_pipeline/pipelines/evaluate/new.py").write_text("X = 1\n")
    run(copy, "git", "add", "--intent-to-add", "src/clips_pipeline/pipelines/evaluate/new.py")
    (copy / "notes.txt").write_text("not for others\n")
    run(copy, "kedro", "dvc", "sync", "--env", "smoke")
    told = run(copy, "kedro", "run", "--env", "smoke", "--params", "train.seed=7,train.ema.half_life_batches=3")
    assert "not kept: notes.txt; before training" in told
    (copy / "notes.txt").unlink()
    assert "train" in run(copy, "dvc", "status", STAGES)
    shutil.copy2(copy / METRICS, copy.parent / "metrics-2.json")

    evaluate.write_text(before)
    (copy / "src/clips_pipeline/pipelines/evaluate/new.py").unlink()
    parameters = copy / "conf/smoke/parameters.yml"
    parameters.write_text(parameters.read_text().replace("samples: 192", "samples: 128"))
    commit(copy, "fewer samples")
    told = run(copy, "dvc", "repro", STAGES)
    assert "Stage 'conf/smoke/dvc.yaml:prepare' didn't change" in told
    assert "Running stage 'conf/smoke/dvc.yaml:train'" in told
    assert is_clean(copy)
    shutil.copy2(copy / METRICS, copy.parent / "metrics-3.json")
    return copy


def test_versions_have_their_lineage(project: Path) -> None:
    found = versions(project)
    assert set(found) == {1, 2, 3}
    assert [found[n].tags["git.dirty"] for n in (1, 2, 3)] == ["false", "true", "false"]
    shown = json.loads(
        run(project, "kedro", "lineage", "show", "2", "--env", "smoke", "--json").partition("{")[2].join(["{", ""])
    )
    assert shown["parameters"]["train"]["seed"] == 7
    assert shown["parameters"]["train"]["samples"] == 192
    assert set(shown["stages"]) == {"prepare", "train", "evaluate", "register"}
    shards = shown["stages"]["prepare"]["outputs"]["data/smoke/03_primary/shards"]
    assert shown["stages"]["train"]["inputs"]["data/smoke/03_primary/shards"] == shards
    assert found[2].tags["data.data/smoke/03_primary/shards"] == shards
    assert not [path for path in shown["stages"]["train"]["inputs"] if path.startswith("src/")]
    text = run(project, "kedro", "lineage", "show", "3", "--env", "smoke")
    assert f"commit       {found[3].tags['git.commit']}" in text
    assert "train.samples = 128" in text
    mlflow = client(project)
    for version in found.values():
        model_run = mlflow.get_run(version.run_id)
        assert model_run.data.tags["git.commit"] == version.tags["git.commit"]
        assert model_run.data.tags["data.data/smoke/03_primary/shards"].endswith(".dir")
        assert model_run.data.params["train.seed"] == ("7" if version.version == 2 else "0")
    # With `dvc repro` too, a run's name has the pipeline, the environment and the method.
    assert mlflow.get_run(found[3].run_id).info.run_name == "train smoke clips"


def test_a_registered_version_is_exported_with_its_card(project: Path) -> None:
    out = project.parent / "exported"
    shown = run(project, "kedro", "export", "models:/clips-smoke/1", str(out), "--to", "transformers", "--env", "smoke")
    assert "image_features: largest difference" in shown
    card = (out / "README.md").read_text()
    assert f"# {versions(project)[1].name}, version 1" in card.replace("\\", "")
    assert "retrieval/" in card.replace("\\", "")


def test_results_of_another_model_go_to_their_own_folder(project: Path) -> None:
    def files() -> dict[Path, bytes]:
        outputs = [
            *(project / "data/smoke/07_model_output").iterdir(),
            *(project / "data/smoke/08_reporting").iterdir(),
        ]
        return {path: path.read_bytes() for path in [*outputs, project / "conf/smoke/dvc.lock"] if path.is_file()}

    before = files()
    evaluation = ("--env", "smoke", "--pipelines", "evaluate", "--params", "evaluate.model=models:/clips-smoke/1")
    run(project, "kedro", "run", *evaluation)
    assert files() == before
    assert is_clean(project)
    folder = "evaluations/models-clips-smoke-1"
    own = project / "data/smoke/08_reporting" / folder
    assert sorted(path.name for path in own.iterdir()) == ["evaluation.html", "metrics.json", "retrieval_ranks.png"]
    assert (own / "metrics.json").read_bytes() == (project.parent / "metrics-1.json").read_bytes()
    assert (project / "data/smoke/07_model_output" / folder / "retrieval_per_item.csv").is_file()
    mlflow = client(project)
    (latest,) = mlflow.search_runs([mlflow.get_experiment_by_name("clips").experiment_id], max_results=1)
    assert latest.info.run_name == "evaluate smoke scenes"
    assert not [tag for tag in latest.data.tags if tag.startswith("data.")]
    # The results of the trained model can still be registered.
    assert "registered as models:/clips-smoke/3" in run(
        project, "kedro", "run", "--env", "smoke", "--pipelines", "register"
    )


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_version_is_restored_with_code_data_and_parameters(project: Path, tmp_path: Path, version: int) -> None:
    folder = tmp_path / "restored"
    told = run(project, "kedro", "lineage", "restore", str(version), str(folder), "--env", "smoke")
    assert ("not kept: notes.txt; before training" in told) == (version == 2)
    assert is_clean(folder)
    assert run(folder, "git", "rev-parse", "HEAD").strip() == versions(project)[version].tags["git.commit"]
    parameters = (folder / "conf/smoke/parameters.yml").read_text()
    assert "# The whole graph in seconds" in parameters
    assert yaml.safe_load(parameters)["train"].get("seed") == (7 if version == 2 else None)
    assert (folder / "src/clips_pipeline/pipelines/evaluate/new.py").exists() == (version == 2)
    (folder / METRICS).unlink()
    # The clone's MLflow does not have the model's run.
    assert "does not exist at" in run(folder, "kedro", "run", "--env", "smoke", "--pipelines", "evaluate")
    assert (folder / METRICS).read_bytes() == (project.parent / f"metrics-{version}.json").read_bytes()
    assert is_clean(folder)


def test_a_failed_restore_names_the_reason_and_leaves_nothing(project: Path, tmp_path: Path) -> None:
    def refused(version: str, folder: Path) -> str:
        return run(project, "kedro", "lineage", "restore", version, str(folder), "--env", "smoke", status=2)

    assert "no version or alias '9'" in refused("9", tmp_path / "a")
    assert "versions: 1, 2, 3" in refused("nobody", tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    assert "not an empty folder" in refused("1", tmp_path / "full")
    cache = project / ".dvc" / "cache"
    cache.rename(project / ".dvc" / "elsewhere")
    try:
        assert "data is neither in the DVC cache" in refused("1", tmp_path / "b")
    finally:
        (project / ".dvc" / "elsewhere").rename(cache)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_a_fresh_clone_pulls_from_s3_and_evaluates_to_the_same_bytes(project: Path, tmp_path: Path) -> None:
    with s3_server() as s3:
        for command in (
            ("remote", "add", "-d", "store", f"s3://{s3.bucket}/dvc"),
            ("remote", "modify", "store", "endpointurl", s3.endpoint),
        ):
            run(project, "dvc", *command)
        commit(project, "the remote, and the lock")
        run(project, "dvc", "push", STAGES)
        clone = tmp_path / "clone"
        run(tmp_path, "git", "clone", "-q", str(project), str(clone))
        run(clone, "dvc", "pull", STAGES)
        assert is_clean(clone)
        (clone / METRICS).unlink()
        assert "does not exist at" in run(clone, "kedro", "run", "--env", "smoke", "--pipelines", "evaluate")
        assert (clone / METRICS).read_bytes() == (project.parent / "metrics-3.json").read_bytes()
        assert is_clean(clone)
