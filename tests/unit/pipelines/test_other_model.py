"""Redirected outputs of another model's evaluation. Whole runs: tests/integration/test_versioning.py."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.io import DataCatalog, MemoryDataset

from clips_pipeline.batch_inference.config import EmbedConfig
from clips_pipeline.config import ConfigError
from clips_pipeline.datasets.folder import PathDataset
from clips_pipeline.pipeline_registry import register_pipelines
from clips_pipeline.pipelines.embed.nodes import inputs_and_model
from clips_pipeline.pipelines.other_model import allow_other_inputs, folder_name, redirect_outputs


@pytest.fixture
def configs(repository: Path, tmp_path: Path) -> dict[str, Any]:
    """Entries of the project's catalog."""
    text = (repository / "conf/base/catalog.yml").read_text()
    for variable, value in (("${_results}", f"{tmp_path}/data"), ("${_model}", "data"), ("${_as_text}", "{}")):
        text = text.replace(variable, value)
    return {name: config for name, config in yaml.safe_load(text).items() if not name.startswith("_")}


def catalog_of(model: str | None) -> DataCatalog:
    missing = PathDataset(filepath="nowhere", made_by="train")
    names = ("clips_model", "mlflow_run", "evaluation_report")
    return DataCatalog({"params:evaluate": MemoryDataset({"model": model}), **dict.fromkeys(names, missing)})


def test_outputs_are_redirected_without_a_trained_model(tmp_path: Path, configs: dict[str, Any]) -> None:
    catalog, pipeline = catalog_of("models:/clips@champion"), register_pipelines()["evaluate"]
    redirect_outputs(pipeline, catalog, configs)
    catalog.save("metrics", {"a": 1.0})
    folder = tmp_path / "data/08_reporting/evaluations/models-clips-champion"
    assert (folder / "metrics.json").is_file()
    assert catalog["evaluation_report"].filepath == folder / "evaluation.html"
    assert all(catalog[name].metadata == {"dvc": {"track": False}} for name in pipeline.all_outputs())
    assert catalog.load("clips_model") == catalog.load("mlflow_run") == {}


def test_without_another_model_nothing_changes() -> None:
    catalog = catalog_of(None)
    redirect_outputs(register_pipelines()["evaluate"], catalog, {})
    assert catalog["evaluation_report"].filepath == Path("nowhere")


@pytest.mark.parametrize("name", ["embed", "recaption"])
def test_other_data_and_models_need_none_of_the_project(name: str) -> None:
    missing = PathDataset(filepath="nowhere", made_by="train")

    def loads(**parameters: Any) -> list[str]:
        names = ("clips_model", "shards")
        catalog = DataCatalog({f"params:{name}": MemoryDataset(parameters), **dict.fromkeys(names, missing)})
        allow_other_inputs(register_pipelines()[name], catalog)
        return [one for one in names if isinstance(catalog[one], MemoryDataset)]

    assert loads(model=None, data=None) == []
    assert loads(model="models:/clips@champion", data=None) == ["clips_model"]
    assert loads(model="folder", data="photos") == ["clips_model", "shards"]


@pytest.mark.parametrize("name", ["embed", "recaption"])
def test_a_run_that_also_prepares_and_trains_does_so_first(name: str) -> None:
    pipelines = register_pipelines()
    order = [node.name for node in (pipelines[name] + pipelines["train"] + pipelines["prepare"]).nodes]
    assert order.index("train_node") < order.index(f"{name}_node")
    assert order.index("prepare_shards_node") < order.index(f"{name}_node")


@pytest.mark.parametrize("pipeline", ["pretrain", "finetune"])
def test_pipelines_that_register_are_refused(pipeline: str) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.model: 'runs:/1'"):
        redirect_outputs(register_pipelines()[pipeline], catalog_of("runs:/1"), {})


@pytest.mark.parametrize(
    ("model", "folder"),
    [("/a/b c", "a-b-c"), ("../b/", "b"), ("/", "model"), ("ViT-B-32.safetensors", "ViT-B-32.safetensors")],
)
def test_folder_names(model: str, folder: str) -> None:
    assert folder_name(model) == folder


def test_a_missing_model_is_named_by_its_key(tmp_path: Path) -> None:
    config = EmbedConfig(model=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"embed\.model: .*nowhere: no such folder"):
        inputs_and_model("embed", config, tmp_path, tmp_path, None)
