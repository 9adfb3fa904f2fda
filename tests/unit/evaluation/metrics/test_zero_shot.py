"""Prompt averaging, accuracy and refusal of what cannot be classified."""

import numpy as np
import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.metrics.zero_shot import (
    chance_accuracy,
    class_embeddings,
    classify,
)
from clips_pipeline.evaluation.per_item.items import items_from_rows


def accuracies(ranks, labels):
    """Build per-item results from ranks and labels."""
    nothing = {"image_to_text_rank": None, "text_to_image_ranks": [], "caption_nats": 0.0, "caption_tokens": 0}
    rows = zip(np.asarray(ranks).tolist(), labels, strict=True)
    found = items_from_rows(
        nothing | {"key": str(i), "zero_shot_rank": rank, "label": label} for i, (rank, label) in enumerate(rows)
    )
    return {name.removeprefix("zero_shot/"): value for name, value in found.values().items()}


def test_prompts_are_normalized_before_and_after_the_mean():
    table = {"a cat": [10.0, 0.0], "my cat": [0.0, 0.1], "a dog": [0.0, -3.0], "my dog": [0.0, -1.0]}
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.array([table[text] for text in texts])

    class_CE = class_embeddings(encode, ["cat", "dog"], ["a {}", "my {c}"])
    assert asked == ["a cat", "my cat", "a dog", "my dog"]
    # Without the first normalization "a cat" would outweigh "my cat" a hundred times.
    np.testing.assert_allclose(class_CE, [[0.5**0.5, 0.5**0.5], [0.0, -1.0]], atol=1e-6)


def test_ranks_and_accuracy_by_hand():
    class_CE = np.eye(3)
    image_NE = np.array([[0.9, 0.1, 0.0], [0.2, 0.1, 0.7], [0.5, 0.5, 0.0]])
    rank_N, _ = classify(image_NE, class_CE, np.array([0, 1, 1]))
    assert rank_N.tolist() == [0, 2, 1]  # the last is a tie, which counts against
    assert accuracies(rank_N, [0, 1, 1]) == {
        "accuracy@1": pytest.approx(1 / 3),
        "accuracy@5": 1.0,
        "mean_per_class_accuracy@1": 0.5,
    }


def test_top5_only_with_more_than_five_classes():
    assert accuracies([0, 4, 5, 1], [0, 1, 2, 3])["accuracy@5"] == 0.75
    assert set(chance_accuracy(5)) == {"accuracy@1", "mean_per_class_accuracy@1"}
    assert chance_accuracy(10) == {"accuracy@1": 0.1, "accuracy@5": 0.5, "mean_per_class_accuracy@1": 0.1}


def test_accuracy_per_class_by_hand():
    # Class 1: three of four; class 4: none of one; class 2: one of one. The others do not occur and do not count.
    found = accuracies([0, 0, 3, 0, 1, 0], [1, 1, 1, 1, 4, 2])
    assert found["mean_per_class_accuracy@1"] == pytest.approx((3 / 4 + 0 + 1) / 3)


@pytest.mark.parametrize(
    ("classes", "templates"), [([], ["{}"]), (["cat"], []), (["cat"], ["a photo"]), (["cat"], ["{} {}"])]
)
def test_unusable_prompts_are_refused(classes, templates):
    with pytest.raises(ConfigError, match="zero-shot"):
        class_embeddings(lambda texts: np.ones((len(texts), 2)), classes, templates)


def test_prompts_that_cancel_out_name_the_class():
    with pytest.raises(ConfigError, match="'dog'"):
        class_embeddings(lambda texts: np.array([[1.0], [1.0], [1.0], [-1.0]]), ["cat", "dog"], ["a {}", "b {}"])


@pytest.mark.parametrize("label", [[0], [0, 3], [0, -1]])
def test_labels_out_of_range_are_refused(label):
    with pytest.raises(ValueError, match="zero-shot"):
        classify(np.eye(3)[:2], np.eye(3), np.array(label))
