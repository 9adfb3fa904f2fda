"""Outputs of another model's evaluation, and what is refused. Whole runs: tests/integration/test_versioning.py."""

from pathlib import Path

import pytest
from kedro.io import DataCatalog, MemoryDataset

from clips_pipeline.config import ConfigError
from clips_pipeline.datasets.remote import RemoteDataset
from clips_pipeline.pipeline_registry import register_pipelines
from clips_pipeline.pipelines.other_model import folder_name, keep_apart

PATHS = "clips_model mlflow_run per_item compositionality_per_item exhibits evaluation_report rank_figure"


def catalog_of(folder: Path, model: str | None) -> DataCatalog:
    path = {"type": "clips_pipeline.datasets.folder.PathDataset", "made_by": "x"}
    configs = {name: {**path, "filepath": str(folder / name)} for name in PATHS.split()}
    configs["metrics"] = {"type": "kedro_datasets.json.JSONDataset", "filepath": f"{folder}/metrics.json"}
    catalog = DataCatalog.from_config(configs)
    catalog["params:evaluate"] = MemoryDataset({"model": model})
    catalog["remote_shards"] = RemoteDataset({}, [{"s3": {"key": "hush"}}, None], lambda: folder)
    return catalog


def test_outputs_move_and_the_trained_model_is_not_needed(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, "models:/clips@champion")
    keep_apart(register_pipelines()["evaluate"], catalog)
    catalog.save("metrics", {"a": 1.0})
    assert (tmp_path / "evaluations/models-clips-champion/metrics.json").is_file()
    assert catalog["evaluation_report"].filepath == tmp_path / "evaluations/models-clips-champion/evaluation_report"
    assert catalog.load("clips_model") == catalog.load("mlflow_run") == {}


def test_without_another_model_all_stays(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, None)
    keep_apart(register_pipelines()["evaluate"], catalog)
    assert catalog["per_item"].filepath == tmp_path / "per_item"


@pytest.mark.parametrize("pipeline", ["pretrain", "finetune"])
def test_what_could_not_be_registered_is_not_begun(tmp_path: Path, pipeline: str) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.model: 'runs:/1'"):
        keep_apart(register_pipelines()[pipeline], catalog_of(tmp_path, "runs:/1"))


@pytest.mark.parametrize(
    ("model", "folder"),
    [("/a/b c", "a-b-c"), ("../b/", "b"), ("/", "model"), ("ViT-B-32.safetensors", "ViT-B-32.safetensors")],
)
def test_names_of_folders(model: str, folder: str) -> None:
    assert folder_name(model) == folder
