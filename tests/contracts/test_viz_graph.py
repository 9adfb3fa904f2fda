"""The graph in Kedro-Viz: outputs and their nodes, without extra datasets for output paths."""

from pathlib import Path

import yaml
from kedro.io import DataCatalog

from clips_pipeline.datasets.folder import PathDataset, Paths
from clips_pipeline.pipeline_registry import register_pipelines


def test_nodes_get_output_paths_only_from_paths(repository: Path) -> None:
    catalog = yaml.safe_load((repository / "conf/base/catalog.yml").read_text())
    assert [name for name in catalog if name.endswith("_target")] == []
    for pipeline in register_pipelines().values():
        free = {name for name in pipeline.inputs() if not name.startswith("params:")} - set(catalog)
        assert free <= {"paths", "finetuned_paths", "remote_shards", "search_credentials", "searched_environment"}


def test_paths_equal_the_catalog_and_parents_are_created(tmp_path: Path) -> None:
    entries = {
        name: PathDataset(filepath=str(tmp_path / "deep" / name), made_by="train") for name in ("model", "own_model")
    }
    catalog = DataCatalog(entries)
    assert Paths(catalog)["model"] == tmp_path / "deep" / "model"
    assert Paths(catalog, {"model": "own_model"})["model"] == tmp_path / "deep" / "own_model"
    assert (tmp_path / "deep").is_dir()
    assert set(Paths(catalog)) == {"model", "own_model"}


def test_missing_outputs_cause_no_warning_in_kedro_viz(repository: Path) -> None:
    levels = yaml.safe_load((repository / "conf/logging.yml").read_text())["loggers"]
    from kedro_viz.models.flowchart import node_metadata

    assert levels[node_metadata.logger.name] == {"level": "ERROR"}
