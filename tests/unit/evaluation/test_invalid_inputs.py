"""Sets and models that cannot be evaluated: one error, before the model runs if possible."""

import math
import shutil
from dataclasses import replace

import pytest
from tests.unit.evaluation.sample_images import png

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Caption, Record
from clips_pipeline.evaluation.config import CompositionalityConfig, EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_model, evaluate_records

CPU = EvaluationConfig(device="cpu", examples=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probe_samples": 9, "split": "holdout"}, r"probe_samples: .* has no split holdout"),
        ({"compositionality": CompositionalityConfig(winoground="nowhere")}, "nowhere.*no such file"),
    ],
)
def test_invalid_sets_are_refused_before_the_model_is_loaded(shards, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_model(tmp_path / "no model", shards, replace(CPU, **changes))


def test_a_set_without_classes_is_not_probed(shards, tmp_path):
    for name in ("index.json", "spans.bin"):
        shutil.copy(shards / name, tmp_path)
    with pytest.raises(ConfigError, match="has no classes"):
        evaluate_model(tmp_path / "no model", tmp_path, replace(CPU, probe_samples=9))


def test_a_diverged_model_is_an_error_that_names_the_metric(embedder, shards):
    embedder.model.captioner.head.weight.data.fill_(math.nan)
    with pytest.raises(ConfigError, match="caption/scenes/loss is nan"):
        evaluate_records(embedder, lambda: eval_samples(shards, "test"), None, CPU)
    embedder.model.vision.head.weight.data.fill_(math.nan)
    with pytest.raises(ConfigError, match="retrieval/scenes: image embeddings contain NaN"):
        evaluate_records(embedder, lambda: eval_samples(shards, "test"), None, CPU)


def test_a_damaged_image_and_an_empty_split_are_named(embedder):
    broken = Record("bad/one", png()[:40], "png", ("a",), (Caption("b."),))
    with pytest.raises(ConfigError, match="bad/one cannot be decoded"):
        evaluate_records(embedder, lambda: [broken], None, CPU)
    with pytest.raises(ConfigError, match="test split is empty"):
        evaluate_records(embedder, list, None, CPU)
