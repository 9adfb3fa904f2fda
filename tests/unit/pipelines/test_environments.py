"""Differences of an environment from `conf/base`."""

from pathlib import Path

from kedro.config import OmegaConfigLoader

from clips_pipeline.pipelines.environments import differences


def loader(folder: Path, env: str) -> OmegaConfigLoader:
    return OmegaConfigLoader(
        str(folder), env=env, base_env="base", default_run_env="local", merge_strategy={"parameters": "soft"}
    )


def test_an_environment_of_the_differences_equals_the_original(tmp_path: Path) -> None:
    for name, content in {
        "base/parameters.yml": "train: {samples: 10, loss: {a: 1, b: 2}, ema: null}\nprepare: {kind: scenes, list: [1, 2]}\n",
        "base/globals.yml": "data_root: data\nresults_root: data\n",
        "mine/parameters.yml": "train: {loss: {a: 5}, ema: {decay: 0.9}}\nprepare: {list: [3]}\n",
        "mine/globals.yml": "data_root: data/mine\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    mine = loader(tmp_path, "mine")
    parameters = mine["parameters"]
    parameters["train"]["samples"] = 20  # from the command line
    found = differences(mine, parameters)
    assert found == {
        "parameters": {"train": {"samples": 20, "loss": {"a": 5}, "ema": {"decay": 0.9}}, "prepare": {"list": [3]}},
        "globals": {"data_root": "data/mine", "results_root": "data"},
    }
