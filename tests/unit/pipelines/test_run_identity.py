"""Which run a start continues, and that applied changes are logged once."""

from pathlib import Path
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from tests.integration.conftest import prepared as prepared

from clips_pipeline.config import from_mapping
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.storage.files import Storage, StorageConfig
from clips_pipeline.pipeline_registry import register_pipelines
from clips_pipeline.pipelines import run_identity
from clips_pipeline.pipelines.run_identity import run_name, run_to_continue
from clips_pipeline.pipelines.train.nodes import build_run_spec
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.resume.run_folder import choose_run_folder, write_spec
from clips_pipeline.training.run_spec import RunSpec


def test_run_names_list_pipelines_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines = register_pipelines()
    monkeypatch.setattr(run_identity, "registered", pipelines)
    catalog = DataCatalog({"params:train": MemoryDataset({"method": "coca"})})
    both = pipelines["prepare"] + pipelines["train"]
    assert run_name(["train", "prepare"], "smoke", both, catalog) == "prepare+train smoke coca"
    assert run_name(None, None, pipelines["pretrain"], catalog) == "pretrain local coca"


def test_applied_changes_are_logged_once_by_hook_and_node(
    prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    remote = ShardCache(tmp_path / "copies", Storage(StorageConfig(), {}))
    paths = {
        "training_runs": tmp_path / "runs",
        "clips_model": tmp_path / "model",
        "caption_tables": tmp_path / "tables",
    }
    parameters: dict[str, Any] = {"samples": 72, "batch_size": 8, "optimizer": {"warmup_samples": 16}}

    def spec_of() -> RunSpec:
        """Do the same as the node."""
        train, folders = from_mapping(TrainConfig, parameters, "train"), (paths["training_runs"], paths["clips_model"])
        spec = build_run_spec(train, prepared / "shards", prepared / "tokenizer", remote, *folders)
        return choose_run_folder(spec, paths["training_runs"])

    begun = Path(spec_of().run_folder)
    (begun / "checkpoints" / "ba2").mkdir(parents=True)
    write_spec(spec_of())
    parameters["samples"] = 80
    scenes = {"train": 48, "validation": 8, "test": 8, "samples_per_shard": 16}
    entries = {
        "params:train": parameters,
        "params:prepare": {"source": {"scenes": scenes}},
        "shards": prepared / "shards",
        "tokenizer": prepared / "tokenizer",
        "remote_shards": remote,
        "paths": paths,
    }
    catalog = DataCatalog({name: MemoryDataset(value, copy_mode="assign") for name, value in entries.items()})
    assert run_to_continue(register_pipelines()["train"], catalog) is None
    assert Path(spec_of().run_folder) == begun
    assert caplog.text.count("train.samples was 72 and is now 80; applied to the unfinished training") == 1
