"""Embedding map and confusion counts on cases computed by hand."""

import numpy as np
import pytest

from clips_pipeline.evaluation.embedding_map import MOST_POINTS, embedding_map
from clips_pipeline.evaluation.metrics.zero_shot import MOST_CLASSES, MOST_PAIRS, Mistake, classify, confusion


def test_the_map_uses_the_two_principal_components() -> None:
    # Widest along the third axis, then along the first; the second does not vary.
    image_NE = np.array([[1, 5, 4], [-1, 5, 4], [1, 5, -4], [-1, 5, -4]], np.float32)
    text_ME = np.array([[0, 0, 2], [9, 9, 9], [0, 0, -2]], np.float32)
    found = embedding_map(image_NE, text_ME, np.array([0, 0, 2]), list("abcd"), ["x", None, None, None])
    assert found is not None
    assert [point.image for point in found.points] == [(4, 1), (4, -1), (-4, 1), (-4, -1)]
    assert found.explained == pytest.approx((16 / 17, 1 / 17), abs=1e-4)
    mean = text_ME.mean(axis=0)
    assert found.gap == pytest.approx(float(np.linalg.norm(mean - [0, 5, 0])))
    assert found.points[0].text == pytest.approx((2 - mean[2], -mean[0]), abs=1e-3)
    assert [point.text is None for point in found.points] == [False, True, False, True]
    assert [point.name for point in found.points] == ["x", None, None, None]


def test_no_map_of_too_few_or_identical_images() -> None:
    same = np.ones((9, 4), np.float32)
    assert embedding_map(same, None, None, list("abcdefghi"), [None] * 9) is None
    assert embedding_map(np.eye(2, dtype=np.float32), None, None, ["a", "b"], [None] * 2) is None


def test_a_large_set_is_subsampled_evenly() -> None:
    count = 5 * MOST_POINTS
    image_NE = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    found = embedding_map(image_NE, None, None, [str(i) for i in range(count)], [None] * count)
    assert found is not None
    assert len(found.points) == MOST_POINTS
    assert (found.points[0].key, found.points[-1].key, found.gap) == ("0", str(count - 1), None)


def test_prediction_is_the_right_class_or_the_best_other_class() -> None:
    image_NE = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    class_CE = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)
    # The third one ties with two others, so its rank is not 0.
    ranks, found = classify(image_NE, class_CE, np.array([0, 0, 2]))
    assert ranks.tolist() == [0, 2, 2]
    assert found.tolist() == [0, 1, 0]


def test_confusion_by_hand() -> None:
    label_N, found_N = np.array([0, 0, 0, 1, 2]), np.array([0, 1, 1, 1, 0])
    shown = confusion(label_N, found_N, ["a", "b", "c", "d"])
    assert (shown.classes, shown.names) == (4, ("a", "b", "c"))
    assert shown.counts == ((1, 2, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0))
    assert shown.mistakes == (Mistake("a", "b", 2, 3), Mistake("c", "a", 1, 1))


def test_many_classes_keep_those_with_most_images() -> None:
    label_N = np.repeat(np.arange(100), np.arange(100, 0, -1))
    shown = confusion(label_N, (label_N + 99) % 100, [str(i) for i in range(100)])
    assert shown.names == tuple(str(i) for i in range(MOST_CLASSES))
    assert [sum(row) for row in shown.counts] == [100 - i for i in range(MOST_CLASSES)]
    assert shown.counts[0][-1] == 100
    assert len(shown.mistakes) == MOST_PAIRS
