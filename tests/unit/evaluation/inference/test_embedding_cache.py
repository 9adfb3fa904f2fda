"""Embeddings that are kept: the same results without a second pass, and never those of something else."""

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.evaluation.metrics.published_sets import write_sets
from tests.unit.evaluation.sample_images import png

from clips_pipeline import formats
from clips_pipeline.evaluation import evaluate
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.inference.embed import TowerEmbedder
from clips_pipeline.evaluation.inference.embedding_cache import EmbeddingCache

CPU = EvaluationConfig(device="cpu", examples=0)


@pytest.fixture
def passes(monkeypatch):
    """How often images and batches of texts went through a model."""
    counts = {"images": 0, "texts": 0}
    images, texts = evaluate.run_image_pass, TowerEmbedder.text_batch

    def run_image_pass(*arguments):
        counts["images"] += 1
        return images(*arguments)

    def text_batch(*arguments):
        counts["texts"] += 1
        return texts(*arguments)

    monkeypatch.setattr(evaluate, "run_image_pass", run_image_pass)
    monkeypatch.setattr(TowerEmbedder, "text_batch", text_batch)
    return counts


def test_a_second_evaluation_reads_what_the_first_has_kept(model_folder, shards, tmp_path, passes):
    config = replace(CPU, long_captions=True)
    plain = evaluate.evaluate_model(model_folder, shards, config)
    first = evaluate.evaluate_model(model_folder, shards, config, kept=tmp_path)
    before = dict(passes)
    second = evaluate.evaluate_model(model_folder, shards, replace(config, batch_size=7), kept=tmp_path)
    assert passes == before
    assert plain.metrics == first.metrics == second.metrics
    assert plain.per_item == first.per_item == second.per_item
    # Without written captions there is less to keep, so it is another pass; the texts are the same.
    without = evaluate.evaluate_model(model_folder, shards, replace(config, captioning=False), kept=tmp_path)
    assert (passes["images"], passes["texts"]) == (before["images"] + 1, before["texts"])
    assert "caption/scenes/bleu4" not in without.metrics
    assert "caption/scenes/loss" in without.metrics


def test_features_of_a_probe_and_of_other_sets_are_kept_too(model_folder, shards, tmp_path, monkeypatch):
    config = replace(CPU, captioning=False, probe_samples=2, compositionality=write_sets(tmp_path / "sets"))
    first = evaluate.evaluate_model(model_folder, shards, config, kept=tmp_path / "kept")

    def not_again(*arguments):
        raise AssertionError("a second pass")

    monkeypatch.setattr(TowerEmbedder, "text_batch", not_again)
    monkeypatch.setattr(TowerEmbedder, "image_batch", not_again)
    second = evaluate.evaluate_model(model_folder, shards, config, kept=tmp_path / "kept")
    assert first.metrics == second.metrics
    assert (first.per_item, first.compositionality) == (second.per_item, second.compositionality)
    # Another number of samples to learn from is asked for anew, and so is another picture.
    with pytest.raises(AssertionError, match="a second pass"):
        evaluate.evaluate_model(model_folder, shards, replace(config, probe_samples=1), kept=tmp_path / "kept")
    picture = next((tmp_path / "sets").rglob("*.png"))
    picture.write_bytes(png("green", (9, 9)))
    with pytest.raises(AssertionError, match="a second pass"):
        evaluate.evaluate_model(model_folder, shards, config, kept=tmp_path / "kept")


def ones():
    return {"x": np.ones(3)}


def twos():
    return {"x": np.full(3, 2.0)}


def test_another_model_device_or_input_has_another_name(tmp_path):
    store = EmbeddingCache(tmp_path, "model", "cpu", "samples")
    assert store.arrays("images", ones)["x"].tolist() == [1.0, 1.0, 1.0]
    assert store.arrays("images", twos)["x"].tolist() == [1.0, 1.0, 1.0]
    for other, what in (
        (replace(store, model="another"), "images"),
        (replace(store, device="cuda"), "images"),
        (store, "texts"),
    ):
        assert other.arrays(what, twos)["x"].tolist() == [2.0, 2.0, 2.0]


def test_another_format_version_has_another_name(tmp_path, monkeypatch):
    store = EmbeddingCache(tmp_path, "model", "cpu", "samples")
    store.arrays("images", ones)
    monkeypatch.setattr(formats, "EMBEDDINGS", formats.EMBEDDINGS + 1)
    assert store.arrays("images", twos)["x"].tolist() == [2.0, 2.0, 2.0]


def test_texts_that_join_to_the_same_letters_are_not_the_same(tmp_path):
    store = EmbeddingCache(tmp_path, "model", "cpu", "samples")

    def lengths(texts):
        return np.array([[float(len(text))] for text in texts])

    assert store.texts(lengths, ["ab", "c"]).tolist() == [[2.0], [1.0]]
    assert store.texts(lengths, ["a", "bc"]).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_damaged_file_is_made_again(tmp_path, caplog, left):
    store = EmbeddingCache(tmp_path, "model", "cpu", "samples")
    store.arrays("images", ones)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * left)])
    assert store.arrays("images", twos)["x"].tolist() == [2.0, 2.0, 2.0]
    assert "is damaged" in caplog.text
    assert store.arrays("images", ones)["x"].tolist() == [2.0, 2.0, 2.0]
