"""Registration in a real SQLite store: runs, versions, tags and aliases."""

import logging
import math
from dataclasses import replace

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError, flatten
from clips_pipeline.evaluation.results import MODEL
from clips_pipeline.registry.lineage.record import GitState, Lineage
from clips_pipeline.registry.lineage.tags import load_record, record_run, tag_run, tag_version
from clips_pipeline.registry.tracking.runs import mlflow_key
from clips_pipeline.registry.versions.gate import GateConfig
from clips_pipeline.registry.versions.packaging import fetch_model_folder, requirements
from clips_pipeline.registry.versions.register import RegistryConfig, register_model

METRIC = "retrieval/scenes/mean_recall@1"
LINEAGE = Lineage(
    git=GitState(commit="a" * 40, dirty=True, branch="main"),
    lock={
        "evaluate": {
            "cmd": "kedro run --pipelines evaluate",
            "deps": [
                {"path": "data/05_model_input/shards", "md5": "1" * 32 + ".dir"},
                {"path": "src/clips_pipeline/models", "md5": "9" * 32 + ".dir"},
            ],
            "outs": [{"path": "data/08_reporting/metrics.json", "md5": "2" * 32}],
        }
    },
    parameters={"evaluate": {"split": "test"}},
)


def register(folder, score, name, **options):
    config = RegistryConfig(name, gate=GateConfig(confidence=None))
    return register_model(folder, {METRIC: score, "caption/scenes/loss": 2.5}, config=config, **options)


def version_of(registration):
    return MlflowClient().get_model_version(registration.name, str(registration.version))


def test_a_version_has_run_metrics_parameters_code_and_data(store, model_folder):
    with mlflow.start_run() as run:
        mlflow.log_param("train.seed", 3)
    parameters = {"train": {"seed": 3, "model": {"size": "tiny"}}, "long": "x" * 9000, "empty": {}}
    result = register(model_folder, 0.25, "joined", run_id=run.info.run_id, parameters=parameters)
    tag_version("joined", result.version, LINEAGE, b"a patch")
    assert (result.version, result.run_id, result.promoted) == (1, run.info.run_id, True)
    assert result.uri == result.champion_uri == "models:/joined/1"
    version = version_of(result)
    assert version.run_id == run.info.run_id
    assert version.tags["git.commit"] == "a" * 40
    assert version.tags["git.dirty"] == "true"
    assert version.tags["data.data/08_reporting/metrics.json"] == "2" * 32
    assert float(version.tags["metric.retrieval/scenes/mean_recall_at_1"]) == 0.25
    assert version.tags["gate.decision"] == "promoted"
    assert version.tags["gate.reason"].startswith("first champion")
    logged = MlflowClient().get_run(run.info.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics == {"retrieval/scenes/mean_recall_at_1": 0.25, "caption/scenes/loss": 2.5}
    assert logged.data.params["train.model.size"] == "tiny"
    assert logged.data.params["train.seed"] == "3"
    assert len(logged.data.params["long"]) == 6000
    for asked in ("1", "champion"):
        record = load_record("joined", asked)
        assert (record.name, record.version, record.lineage, record.patch) == ("joined", 1, LINEAGE, b"a patch")


def test_the_alias_moves_only_for_a_better_model(store, model_folder):
    def train(weights, score):
        (model_folder / "model.safetensors").write_bytes(weights)
        return register(model_folder, score, "contest")

    results = [train(b"1", 0.5), train(b"2", 0.5), train(b"3", 0.4), train(b"4", 0.6)]
    assert [r.version for r in results] == [1, 2, 3, 4]
    assert [r.promoted for r in results] == [True, False, False, True]
    assert [r.champion_uri for r in results] == [f"models:/contest/{v}" for v in (1, 1, 1, 4)]
    assert [version_of(r).tags["gate.decision"] for r in results] == ["promoted", "kept", "kept", "promoted"]
    assert "0.4000, the champion's is 0.5000" in version_of(results[2]).tags["gate.reason"]
    assert int(MlflowClient().get_model_version_by_alias("contest", "champion").version) == 4


def test_the_same_model_of_the_same_run_is_one_version(store, model_folder):
    first = register(model_folder, 0.5, "again")
    second = register(model_folder, 0.5, "again", run_id=first.run_id)
    assert second.version == first.version
    assert second.promoted
    assert second.reason == first.reason
    assert len(MlflowClient().search_model_versions("name='again'")) == 1
    other_weights = model_folder / "model.safetensors"
    other_weights.write_bytes(b"other")
    assert register(model_folder, 0.6, "again", run_id=first.run_id).version == 2


def test_a_champion_without_the_metric_keeps_its_alias(store, model_folder):
    client = MlflowClient()
    first = register(model_folder, 0.5, "foreign")
    client.delete_model_version_tag("foreign", "1", "metric.retrieval/scenes/mean_recall_at_1")
    second = register(model_folder, 0.9, "foreign")
    assert not second.promoted
    assert "not comparable" in second.reason
    assert second.champion_uri == first.uri


def test_kedros_open_run_is_used_and_left_open(store, model_folder):
    with mlflow.start_run() as run:
        assert register(model_folder, 0.5, "open").run_id == run.info.run_id
        assert mlflow.active_run().info.run_id == run.info.run_id
        assert MlflowClient().get_run(run.info.run_id).info.status == "RUNNING"


def test_another_run_is_continued_while_kedros_is_open(store, model_folder):
    with mlflow.start_run() as trained:
        pass
    with mlflow.start_run() as kedro:
        result = register(model_folder, 0.5, "beside", run_id=trained.info.run_id)
        assert mlflow.active_run().info.run_id == kedro.info.run_id
    assert result.run_id == trained.info.run_id
    assert "caption/scenes/loss" not in MlflowClient().get_run(kedro.info.run_id).data.metrics


def test_logged_parameters_stay_with_a_warning(store, model_folder, caplog):
    with mlflow.start_run() as run:
        mlflow.log_param("seed", 1)
    with caplog.at_level(logging.WARNING, logger="clips_pipeline"):
        register(model_folder, 0.5, "kept", run_id=run.info.run_id, parameters={"seed": 2})
    assert MlflowClient().get_run(run.info.run_id).data.params["seed"] == "1"
    assert "seed = 1, although it is now 2" in caplog.text


def test_unknown_and_deleted_runs_name_the_remedy(store, model_folder):
    with pytest.raises(ConfigError, match=r"MLflow run 0123.*mlflow\.yml"):
        register(model_folder, 0.5, "lost", run_id="0123")
    with mlflow.start_run() as run:
        pass
    mlflow.delete_run(run.info.run_id)
    with pytest.raises(ConfigError, match="restore"):
        register(model_folder, 0.5, "lost", run_id=run.info.run_id)


def test_nothing_is_registered_from_bad_metrics_or_an_empty_folder(store, model_folder, tmp_path):
    with pytest.raises(ConfigError, match="caption/scenes/loss"):
        register_model(model_folder, {METRIC: 0.5, "caption/scenes/loss": math.nan}, config=RegistryConfig("none"))
    with pytest.raises(ConfigError, match="was not measured"):
        register_model(model_folder, {"a": 0.5}, config=RegistryConfig("none"))
    with pytest.raises(ConfigError, match="no exported model"):
        register(tmp_path / "nowhere", 0.5, "none")
    (model_folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        register(model_folder, 0.5, "none")
    assert MlflowClient().search_registered_models("name='none'") == []


def test_a_run_has_its_git_state_and_the_inputs_of_each_stage(store):
    with mlflow.start_run() as run:
        tag_run(run.info.run_id, LINEAGE.git)
        tag_run(run.info.run_id, GitState("b" * 40, False, "other"))
        record_run(run.info.run_id, LINEAGE, b"")
    tags = MlflowClient().get_run(run.info.run_id).data.tags
    assert (tags["git.commit"], tags["git.dirty"], tags["git.branch"]) == ("a" * 40, "true", "main")
    assert tags["data.data/05_model_input/shards"] == "1" * 32 + ".dir"
    assert tags["data.data/08_reporting/metrics.json"] == "2" * 32
    assert not any(name.startswith("data.src") for name in tags)
    facts = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/lineage/evaluate/lineage.json")
    assert facts["stages"]["evaluate"]["inputs"]["src/clips_pipeline/models"] == "9" * 32 + ".dir"
    assert facts["parameters"] == {"evaluate": {"split": "test"}}


def test_missing_lineage_is_reported(store, model_folder):
    with pytest.raises(ConfigError, match="no model of this name is registered"):
        load_record("nobody", "1")
    register(model_folder, 0.5, "bare")
    with pytest.raises(ConfigError, match=r"no version or alias '7'.*versions: 1"):
        load_record("bare", "7")
    with pytest.raises(ConfigError, match="its lineage is missing or unreadable"):
        load_record("bare", "1")


@pytest.mark.parametrize(
    "lineage",
    [
        replace(LINEAGE, git=replace(LINEAGE.git, commit="--upload-pack=touch x")),
        replace(LINEAGE, environment="../../.."),
        replace(LINEAGE, lock={"../../dvc.yaml:train": LINEAGE.lock["evaluate"]}),
    ],
)
def test_lineage_with_invalid_names_is_refused(store, model_folder, lineage):
    result = register(model_folder, 0.5, "foreign")
    tag_version("foreign", result.version, lineage, None)
    with pytest.raises(ConfigError, match="which is not a commit, environment or stage"):
        load_record("foreign", str(result.version))


def test_the_exported_folder_is_downloaded_unchanged(store, model_folder):
    register(model_folder, 0.5, "whole")
    folder = fetch_model_folder("models:/whole@champion")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in model_folder.iterdir()
    }


def test_the_package_contains_code_and_no_pickle(store, model_folder):
    result = register(model_folder, 0.5, "inside")
    root = fetch_model_folder(result.uri).parents[1]
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".pyc"))]
    assert "code/clips_pipeline/registry/versions/pyfunc_model.py" in files
    assert (root / "requirements.txt").read_text().split() == requirements()


@pytest.mark.parametrize("name", ["", "a/b", "a:b"])
def test_names_the_registry_refuses(name):
    with pytest.raises(ConfigError, match="name"):
        RegistryConfig(name=name)


@pytest.mark.parametrize("alias", ["", "latest", "v2", "1st"])
def test_aliases_the_registry_refuses(alias):
    with pytest.raises(ConfigError, match="alias"):
        RegistryConfig(alias=alias)


@pytest.mark.parametrize("set_name", ["scenes", "sugarcrepe"])
def test_results_of_another_model_are_not_registered(store, model_folder, set_name):
    items = pd.DataFrame({"key": ["a", "b"], MODEL: ["0" * 64] * 2})
    with pytest.raises(ConfigError, match=r"evaluate\.model named another.*nothing was registered"):
        register(model_folder, 0.5, "another", items={set_name: items})
    assert MlflowClient().search_model_versions("name='another'") == []


def test_keys_and_flattening():
    assert mlflow_key("retrieval/s/recall@10") == "retrieval/s/recall_at_10"
    assert mlflow_key("a{b}") == "a_b_"
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": {}}) == {"a.b.c": 1, "a.d": [2], "e": {}}
