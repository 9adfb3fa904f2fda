"""Environments write to their own folders and overwrite nothing of each other."""

import os
from pathlib import Path

import pytest
import yaml
from kedro.config import OmegaConfigLoader

from clips_pipeline.settings import CONFIG_LOADER_ARGS


def paths(source: Path, environment: str) -> dict[str, str]:
    """Return the catalog's file paths by entry in `environment`."""
    loader = OmegaConfigLoader(conf_source=str(source), env=environment, **CONFIG_LOADER_ARGS)
    return {name: entry["filepath"] for name, entry in loader["catalog"].items() if "filepath" in entry}


def inside(path: str, roots: set[str]) -> bool:
    return any(Path(path).is_relative_to(root) for root in roots)


@pytest.mark.parametrize(
    "environment",
    ["smoke", "photos", "suite", "study_captioners", "s16", "b16", "l16", "l14", "h14", "l14-336", "h14-336"],
)
def test_environments_write_only_below_their_roots(repository: Path, environment: str) -> None:
    conf = repository / "conf"
    roots = yaml.safe_load((conf / environment / "globals.yml").read_text())
    found = paths(conf, environment)
    assert set(found) == set(paths(conf, "local"))
    # A search always writes the environment `best`.
    outside = {name for name, path in found.items() if not inside(path, set(roots.values()))}
    assert outside == {"best_parameters", "best_globals"}


def test_an_environment_may_read_the_model_of_another(repository: Path, tmp_path: Path) -> None:
    base, mine = paths(repository / "conf", "local"), tmp_path / "mine"
    mine.mkdir()
    os.symlink(repository / "conf" / "base", tmp_path / "base")
    (mine / "globals.yml").write_text("data_root: data/mine\nresults_root: data/mine\nmodel_root: data\n")
    found = paths(tmp_path, "mine")
    assert {name for name in found if found[name] == base[name]} == {
        "clips_model", "mlflow_run", "best_parameters", "best_globals",
    }  # fmt: skip
