"""Retrieval by long captions and per-class accuracy on fixed embeddings."""

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.evaluation.fixed_embedder import FixedEmbedder
from tests.unit.evaluation.sample_images import png

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.records import Caption, Record
from clips_pipeline.data.shards.splits import Classes
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_model, evaluate_records
from clips_pipeline.evaluation.inference.embed import Embedder

PLAIN = EvaluationConfig(device="cpu", examples=0, captioning=False)
LONG = replace(PLAIN, long_captions=True)
E = np.eye(4)
SHORT = {f"short {i}": E[i] for i in range(4)}


@pytest.fixture
def told(loaded):
    return FixedEmbedder(loaded.model, loaded.image_transform, loaded.tokenizer, batch_size=3)


def record(number, long="", label=None):
    return Record(f"k{number}", png(), "png", (f"short {number}",), (Caption(long),), label=label)


def test_long_captions_are_ranked_in_both_directions(told):
    # Images 0 and 1 have theirs swapped, and caption 3 is nearer to image 0 than to its own.
    texts = {"long 0": E[1], "long 1": E[0], "long 2": E[2], "long 3": E[3] + 2 * E[0]}
    records = [record(i, f"long {i}") for i in range(4)]
    found = evaluate_records(
        told.set_embeddings([E[0], E[1], E[2] + E[3], E[3]], SHORT | texts), lambda: records, None, LONG
    )
    of_long = {name.split("/")[2]: value for name, value in found.metrics.items() if name.startswith("retrieval_long/")}
    # Image to text: 0 is nearest to caption 1, 1 to 0; 2 is nearer to its own (0.71) than to caption 3 (0.32); 3 is nearest to
    # its own (0.45). Text to image: caption 0 finds image 1, 1 finds 0, 2 its own, 3 finds 0 (0.89).
    assert of_long == {
        "image_to_text_recall@1": 0.5,
        "image_to_text_recall@5": 1.0,
        "image_to_text_recall@10": 1.0,
        "text_to_image_recall@1": 0.25,
        "text_to_image_recall@5": 1.0,
        "text_to_image_recall@10": 1.0,
        "mean_recall@1": 0.375,
    }
    assert {name: found.report_data.chance[f"retrieval_long/scenes/{name}"] for name in of_long} == pytest.approx(
        dict.fromkeys(of_long, 1.0) | {name: 0.25 for name in of_long if name.endswith("recall@1")}
    )
    # Short captions are ranked separately, and their ranks are in columns of their own.
    assert found.metrics["retrieval/scenes/text_to_image_recall@1"] == 1.0
    assert [row["text_to_image_ranks"] for row in found.per_item] == [[0], [0], [0], [0]]
    assert [row["image_to_text_rank"] for row in found.per_item] == [0, 0, 1, 0]  # 2 stands between two captions: a tie


def test_long_captions_need_the_parameter_and_captions(told, model_folder, shards):
    records = [record(i) for i in range(4)]
    found = evaluate_records(told.set_embeddings(E, SHORT), lambda: records, None, LONG)
    assert not [name for name in found.metrics if name.startswith("retrieval_long/")]
    plain, long = (evaluate_model(model_folder, shards, config) for config in (PLAIN, LONG))
    assert set(long.metrics) - set(plain.metrics) == {
        name.replace("retrieval/", "retrieval_long/") for name in plain.metrics if name.startswith("retrieval/")
    }
    assert plain.metrics == {name: pytest.approx(long.metrics[name]) for name in plain.metrics}
    assert set(long.report_data.chance) == set(long.metrics)


def test_images_without_a_long_caption_are_refused_or_stay_as_candidates(told):
    records = [record(i, "" if i == 2 else f"long {i}") for i in range(4)]
    # Caption 0 is nearest to the image without a caption, so it does not rank its own image first.
    texts = {"long 0": E[0] + 2 * E[2], "long 1": E[1], "long 3": E[3]}
    with pytest.raises(ConfigError, match=r"1 of 4 images .* have no long caption: k2;"):
        evaluate_records(told.set_embeddings(E, SHORT | texts), lambda: records, None, LONG)
    skip = replace(LONG, missing_captions="skip")
    found = evaluate_records(told.set_embeddings(E, SHORT | texts), lambda: records, None, skip)
    assert found.metrics["retrieval_long/scenes/image_to_text_recall@1"] == 1.0
    assert found.metrics["retrieval_long/scenes/text_to_image_recall@1"] == pytest.approx(2 / 3)
    assert found.report_data.chance["retrieval_long/scenes/image_to_text_recall@1"] == pytest.approx(1 / 3)
    assert found.report_data.chance["retrieval_long/scenes/text_to_image_recall@1"] == 1 / 4


def test_long_captions_are_truncated_and_equal_beginnings_are_ties(loaded):
    """The context has 24 ids, so text after them does not distinguish the images."""
    embedder = Embedder(loaded.model, loaded.image_transform, loaded.tokenizer, batch_size=3)
    begin = "a red house " * 20
    records = [record(0, begin + "and a dog"), record(1, begin + "and a cat")]
    found = evaluate_records(embedder, lambda: records, None, LONG)
    assert found.metrics["retrieval_long/scenes/image_to_text_recall@1"] == 0.0
    assert found.metrics["retrieval_long/scenes/text_to_image_recall@1"] == 0.0


def test_classes_have_equal_weight_in_per_class_accuracy(told):
    # Six of class 0, of which five are right; two of class 1, none right; one of class 3, right; none of class 2.
    images = [E[0]] * 5 + [E[1]] + [E[0], E[0] + E[1]] + [E[3]]
    labels = [0] * 6 + [1] * 2 + [3]
    records = [replace(record(i, label=label), web_captions=()) for i, label in enumerate(labels)]
    classes = Classes(("a", "b", "c", "d"), ("{}",))
    told.set_embeddings(images, {name: E[i] for i, name in enumerate(classes.names)})
    found = evaluate_records(told, lambda: records, classes, PLAIN)
    assert found.metrics == {
        "zero_shot/scenes/accuracy@1": pytest.approx(6 / 9),
        "zero_shot/scenes/mean_per_class_accuracy@1": pytest.approx((5 / 6 + 0 / 2 + 1 / 1) / 3),
    }
    assert found.report_data.chance == dict.fromkeys(found.metrics, 0.25)
