"""Evaluation of a model of method captioning: captions and probes, and no metric that needs a text tower."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.small_model import small_model
from tests.unit.evaluation.conftest import IMAGES

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.evaluation.config import CompositionalityConfig, EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_model
from clips_pipeline.evaluation.inference.training_retrieval import measure_caption_loss
from clips_pipeline.evaluation.metric_keys import check_method_has
from clips_pipeline.interop.folder import load_model_folder, save_model
from clips_pipeline.loading import load_model
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.reports.model.pages import write_evaluation
from clips_pipeline.tuning.config import SearchConfig
from clips_pipeline.tuning.search import check_search

CPU = EvaluationConfig(device="cpu", examples=3)


@pytest.fixture(scope="module")
def captioning(tmp_path_factory, tokenizer_folder) -> Path:
    config = small_model()
    assert config.captioner is not None
    captioner = replace(config.captioner, inputs="tokens")
    config = replace(config, captioner=captioner, embed_dim=config.vision.width, text_tower=False)
    torch.manual_seed(0)
    return save_model(ClipsModel(config), tokenizer_folder, IMAGES.to_mapping(), tmp_path_factory.mktemp("alone") / "m")


def test_captions_and_probes_and_nothing_that_needs_texts(captioning, shards, tmp_path):
    found = evaluate_model(captioning, shards, replace(CPU, probe_samples=100, long_captions=True))
    scores = {f"caption/scenes/{name}" for name in ("teacher_forced_loss", "bleu4", "rouge_l", "cider")}
    probes = {f"probe/scenes/{name}" for name in ("linear_accuracy@1", "knn_accuracy@1")}
    assert set(found.metrics) == scores | probes
    write_evaluation(found, tmp_path / "report.html")


def test_the_held_out_loss_is_that_of_the_evaluation(captioning, shards):
    loaded = load_model_folder(captioning)
    held_out = measure_caption_loss(loaded.model, shards, "test", loaded.tokenizer, loaded.images, batch_size=5)
    found = evaluate_model(captioning, shards, replace(CPU, captioning=False, examples=0))
    assert set(held_out) == {"caption_loss"}
    assert held_out["caption_loss"] == pytest.approx(found.metrics["caption/scenes/teacher_forced_loss"], rel=1e-6)


def test_compositionality_is_refused_before_the_work(captioning, shards, monkeypatch):
    monkeypatch.setattr("clips_pipeline.evaluation.evaluate.read_entries", lambda config: None)
    config = replace(CPU, compositionality=CompositionalityConfig(winoground="somewhere"))
    with pytest.raises(
        ConfigError, match=r"evaluate\.compositionality: the sets compare texts, and the model has no text"
    ):
        evaluate_model(captioning, shards, config)


def test_a_loaded_model_embeds_images_and_writes_captions_and_says_what_it_lacks(captioning, photos):
    clips = load_model(captioning)
    image = torch.zeros(40, 30, 3, dtype=torch.uint8).numpy()
    assert clips.embed_images(image).shape == (1, 32)
    assert len(clips.caption(image)) == 1
    with pytest.raises(ValueError, match="no text tower"):
        clips.embed_texts("a dog")


@pytest.mark.parametrize(
    ("method", "metric", "remedy"),
    [
        ("captioning", "retrieval/scenes/mean_recall@1", r"no text tower; set caption/scenes/teacher_forced_loss$"),
        ("captioning", "sugarcrepe/add_obj/accuracy", "no text tower"),
        ("captioning", "caption/scenes/loss", "set caption/scenes/teacher_forced_loss"),
        ("clip", "caption/scenes/loss", r"no captioner; set retrieval/scenes/mean_recall@1$"),
        ("coca", "caption/scenes/cider", r"set retrieval/scenes/mean_recall@1 or caption/scenes/teacher_forced_loss"),
        ("clips", "caption/scenes/teacher_forced_loss", r"set retrieval/scenes/mean_recall@1 or caption/scenes/loss"),
    ],
)
def test_a_metric_that_the_method_does_not_have(method: str, metric: str, remedy: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"register\.metric: {metric} does not exist for train\.method {method}.*{remedy}"
    ):
        check_method_has(metric, method, "register.metric")


@pytest.mark.parametrize(
    ("method", "metric"),
    [
        ("captioning", "caption/scenes/teacher_forced_loss"),
        ("captioning", "caption/scenes/cider"),
        ("captioning", "probe/scenes/linear_accuracy@1"),
        ("clips", "retrieval/scenes/mean_recall@1"),
        ("clips", "caption/scenes/loss"),
        ("coca", "caption/scenes/teacher_forced_loss"),
        ("clip", "zero_shot/scenes/accuracy@1"),
        ("clip", "winoground/all/group"),
    ],
)
def test_a_metric_that_the_method_has(method: str, metric: str) -> None:
    check_method_has(metric, method, "register.metric")


@pytest.mark.parametrize(
    ("method", "search", "message"),
    [
        ("captioning", {}, r"search\.metric: 'mean_recall@1' is unknown for train\.method captioning; .*caption_loss"),
        ("captioning", {"metric": "caption_loss"}, r"search\.direction: maximize, but a lower caption_loss is better"),
        (
            "clips",
            {"metric": "caption_loss"},
            r"search\.metric: 'caption_loss' is unknown; choose one of mean_recall@1",
        ),
        (
            "clips",
            {"space": {"optimizer.name": {"kind": "categorical", "choices": ["adamw", "moun"]}}},
            r"search\.space\.optimizer\.name: train\.optimizer\.name: 'moun' is unknown",
        ),
    ],
)
def test_a_search_that_cannot_be(method: str, search: dict[str, object], message: str) -> None:
    space = {"optimizer.peak_lr": {"kind": "float", "low": 1e-4, "high": 1e-3}}
    config = from_mapping(SearchConfig, {"space": space, "samples": 6400, **search}, "search")
    with pytest.raises(ConfigError, match=message):
        check_search(config, {"method": method})
