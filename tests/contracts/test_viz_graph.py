"""The graph as Kedro-Viz shows it: results and their nodes, without a twin that says where each is written."""

from pathlib import Path

import yaml
from kedro.io import DataCatalog

from clips_pipeline.datasets.folder import PathDataset, Paths
from clips_pipeline.pipeline_registry import register_pipelines


def test_no_node_takes_a_place_to_write_to_but_by_paths(repository: Path) -> None:
    catalog = yaml.safe_load((repository / "conf/base/catalog.yml").read_text())
    assert [name for name in catalog if name.endswith("_target")] == []
    for pipeline in register_pipelines().values():
        free = {name for name in pipeline.inputs() if not name.startswith("params:")} - set(catalog)
        assert free <= {"paths", "finetuned_paths", "remote_shards", "search_credentials", "searched_environment"}


def test_paths_are_those_of_the_entries_and_their_folders_are_made(tmp_path: Path) -> None:
    entries = {
        name: PathDataset(filepath=str(tmp_path / "deep" / name), made_by="train") for name in ("model", "own_model")
    }
    catalog = DataCatalog(entries)
    assert Paths(catalog)["model"] == tmp_path / "deep" / "model"
    assert Paths(catalog, {"model": "own_model"})["model"] == tmp_path / "deep" / "own_model"
    assert (tmp_path / "deep").is_dir()
    assert set(Paths(catalog)) == {"model", "own_model"}


def test_what_is_not_made_yet_gives_viz_no_warning(repository: Path) -> None:
    levels = yaml.safe_load((repository / "conf/logging.yml").read_text())["loggers"]
    from kedro_viz.models.flowchart import node_metadata

    assert levels[node_metadata.logger.name] == {"level": "ERROR"}
