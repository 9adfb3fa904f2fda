"""The folder of the shards belongs to an environment and a source, from before any work on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.pipelines.check import reserve_shards_folder


def test_run_claims_the_folder_for_its_environment(tmp_path: Path) -> None:
    def run(environment: str, prepare: dict[str, Any]) -> None:
        values = {"params:prepare": prepare, "paths": {"shards": tmp_path / "shards"}}
        pipeline = SimpleNamespace(inputs=lambda: {"params:prepare"})
        reserve_shards_folder(pipeline, SimpleNamespace(load=values.__getitem__), environment)  # type: ignore[arg-type]

    folder = {"source": {"kind": "folder", "folder": {"images": "a", "captions": "b.json"}}}
    run("mine", folder)
    (tmp_path / "shards").mkdir()
    with pytest.raises(
        ConfigError, match=r"holds data of the source folder \(a, b.json\), made by the environment mine"
    ):
        run("smoke", {})
    run("mine", {})
