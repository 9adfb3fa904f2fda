"""A small prepared data set, made once, and run specs on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clips_pipeline.config import from_mapping
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.run_spec import RunSpec

SpecOf = Callable[..., RunSpec]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(ScenesSource(ScenesConfig(train=48, validation=8, test=8, samples_per_shard=16)), folder / "shards")
    captions = [text for r in eval_samples(folder / "shards", "train") for text in (r.web_caption, r.synthetic_caption)]
    train_wordpiece(captions, 300, folder / "tokenizer")
    return folder


@pytest.fixture
def spec_of(prepared: Path, tmp_path: Path) -> SpecOf:
    """Return a function from the name of a run folder and changed parameters to a spec: nine steps of eight, 1.5 epochs."""

    def make(name: str = "run", **changes: Any) -> RunSpec:
        parameters = {
            "samples": 72,
            "batch_size": 8,
            "optimizer": {"warmup_samples": 16},
            "every": {"log": 1, "evaluate": 100, "checkpoint": 2},
            "launch": {"device": "cpu", "loader_workers": 0, "threads": 1},
        }
        for key, value in changes.items():
            merged = {**parameters.get(key, {}), **value} if isinstance(value, dict) else value  # type: ignore[dict-item]
            parameters[key] = merged
        return RunSpec(
            from_mapping(TrainConfig, parameters, "train"),
            shards=str(prepared / "shards"),
            tokenizer=str(prepared / "tokenizer"),
            run_folder=str(tmp_path / name),
            model_folder=str(tmp_path / f"{name}-model"),
            data_version=load_index(prepared / "shards").version,
        )

    return make


def losses(spec: RunSpec) -> dict[int, float]:
    """Return the total loss by step from the event log."""
    events = [json.loads(line) for line in spec.events.read_text().splitlines()]
    return {event["step"]: event["losses"]["total"] for event in events if event["kind"] == "step"}


def output_of(run_folder: str | Path, rank: int = 0) -> str:
    """Return what a rank has written to stderr in all starts."""
    logs = sorted(Path(run_folder).glob(f"logs/*/attempt_*/{rank}/stderr.log"))
    return "".join(log.read_text() for log in logs)
