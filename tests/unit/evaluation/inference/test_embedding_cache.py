"""Embedding cache: the same results without a second pass, and no entry for different inputs."""

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
    """Count the forward passes of images and of text batches."""
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


def test_a_second_evaluation_reads_the_cache_of_the_first(model_folder, shards, tmp_path, passes):
    config = replace(CPU, long_captions=True)
    plain = evaluate.evaluate_model(model_folder, shards, config)
    first = evaluate.evaluate_model(model_folder, shards, config, cache_dir=tmp_path)
    before = dict(passes)
    second = evaluate.evaluate_model(model_folder, shards, replace(config, batch_size=7), cache_dir=tmp_path)
    assert passes == before
    assert plain.metrics == first.metrics == second.metrics
    assert plain.per_item == first.per_item == second.per_item
    # Without written captions the image pass is another entry; the texts are the same.
    without = evaluate.evaluate_model(model_folder, shards, replace(config, captioning=False), cache_dir=tmp_path)
    assert (passes["images"], passes["texts"]) == (before["images"] + 1, before["texts"])
    assert "caption/scenes/bleu4" not in without.metrics
    assert "caption/scenes/loss" in without.metrics


def test_features_of_a_probe_and_of_other_sets_are_cached_too(model_folder, shards, tmp_path, monkeypatch):
    config = replace(CPU, captioning=False, probe_samples=2, compositionality=write_sets(tmp_path / "sets"))
    first = evaluate.evaluate_model(model_folder, shards, config, cache_dir=tmp_path / "cache")

    def fail(*arguments):
        raise AssertionError("a second pass")

    monkeypatch.setattr(TowerEmbedder, "text_batch", fail)
    monkeypatch.setattr(TowerEmbedder, "image_batch", fail)
    second = evaluate.evaluate_model(model_folder, shards, config, cache_dir=tmp_path / "cache")
    assert first.metrics == second.metrics
    assert (first.per_item, first.compositionality) == (second.per_item, second.compositionality)
    # Another number of training samples is another entry, and so is another image.
    with pytest.raises(AssertionError, match="a second pass"):
        evaluate.evaluate_model(model_folder, shards, replace(config, probe_samples=1), cache_dir=tmp_path / "cache")
    picture = next((tmp_path / "sets").rglob("*.png"))
    picture.write_bytes(png("green", (9, 9)))
    with pytest.raises(AssertionError, match="a second pass"):
        evaluate.evaluate_model(model_folder, shards, config, cache_dir=tmp_path / "cache")


def ones():
    return {"x": np.ones(3)}


def twos():
    return {"x": np.full(3, 2.0)}


def test_another_model_device_or_input_is_another_entry(tmp_path):
    cache = EmbeddingCache(tmp_path, "model", "cpu", "samples")
    assert cache.load_or_compute("images", ones)["x"].tolist() == [1.0, 1.0, 1.0]
    assert cache.load_or_compute("images", twos)["x"].tolist() == [1.0, 1.0, 1.0]
    for other, what in (
        (replace(cache, model="another"), "images"),
        (replace(cache, device="cuda"), "images"),
        (cache, "texts"),
    ):
        assert other.load_or_compute(what, twos)["x"].tolist() == [2.0, 2.0, 2.0]


def test_another_format_version_is_another_entry(tmp_path, monkeypatch):
    cache = EmbeddingCache(tmp_path, "model", "cpu", "samples")
    cache.load_or_compute("images", ones)
    monkeypatch.setattr(formats, "EMBEDDINGS", formats.EMBEDDINGS + 1)
    assert cache.load_or_compute("images", twos)["x"].tolist() == [2.0, 2.0, 2.0]


def test_texts_with_the_same_concatenation_are_different_entries(tmp_path):
    cache = EmbeddingCache(tmp_path, "model", "cpu", "samples")

    def lengths(texts):
        return np.array([[float(len(text))] for text in texts])

    assert cache.embed_texts(lengths, ["ab", "c"]).tolist() == [[2.0], [1.0]]
    assert cache.embed_texts(lengths, ["a", "bc"]).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_damaged_file_is_computed_again(tmp_path, caplog, left):
    cache = EmbeddingCache(tmp_path, "model", "cpu", "samples")
    cache.load_or_compute("images", ones)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * left)])
    assert cache.load_or_compute("images", twos)["x"].tolist() == [2.0, 2.0, 2.0]
    assert "damaged" in caplog.text
    assert cache.load_or_compute("images", ones)["x"].tolist() == [2.0, 2.0, 2.0]
