"""Invalid run specs: one error with the key, before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.resolve import model_config
from clips_pipeline.training.run_spec import RunSpec, load_spec


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("train", "loss", "caption"), 1.0, "train.loss.caption: unknown key; did you mean 'caption_weight'?"),
        (("train", "smaples"), 1, "train.smaples: unknown key; did you mean 'samples'?"),
        (("data",), "x", "run_spec.json.data: unknown key"),
        (("train", "launch", "processes"), 3, "train.batch_size: 64 must be divisible by launch.processes (3)"),
        (
            ("train", "optimizer", "warmup_samples"),
            150_000,
            "train.optimizer.warmup_samples: 150000 must not exceed samples (100000)",
        ),
        (("train", "samples"), 1_000, "train.optimizer.warmup_samples: 3000 must not exceed samples (1000)"),
        (
            ("train", "model", "image_size"),
            70,
            "train.model.image_size: 70 is not a multiple of the patch size of 32; use 64",
        ),
        (("train", "model", "size"), "xl", "train.model.size: 'xl' is unknown"),
    ],
)
def test_one_clear_error(tmp_path: Path, path: tuple[str, ...], value: Any, message: str) -> None:
    good = RunSpec(TrainConfig(), shards="/s", tokenizer="/t", run_folder="/r", model_folder="/m", data_version="d")
    mapping = json.loads(good.text)
    inner = mapping
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = tmp_path / "run_spec.json"
    file.write_text(json.dumps(mapping))
    with pytest.raises(ConfigError) as caught:
        model_config(load_spec(file).train, 1000)
    assert message in str(caught.value)
