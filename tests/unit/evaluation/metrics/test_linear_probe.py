"""Linear probe and nearest neighbors on features with known answers."""

import math

import numpy as np
import pytest
import torch

from clips_pipeline.evaluation.metrics.linear_probe import LabeledFeatures, fit, knn_hits, linear_hits


def knn_accuracy(train, asked, **options):
    return float(knn_hits(train, asked, **options).mean())


def linear_accuracy(train, validation, asked, *penalties):
    right, penalty = linear_hits(train, validation, asked, *penalties)
    return float(right.mean()), penalty


def labeled(features, labels):
    return LabeledFeatures(np.array(features, dtype=np.float32), np.array(labels))


AXES = labeled([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], [0, 0, 1, 1])


def test_neighbors_vote_by_similarity():
    asked = labeled([[1, 0.2], [0.3, 1], [1, 0.1]], [0, 1, 1])
    assert knn_accuracy(AXES, asked, neighbors=1) == pytest.approx(2 / 3)


def test_one_similar_neighbor_outweighs_two_dissimilar_ones():
    near, far = [1.0, 0.0], [math.cos(0.5), math.sin(0.5)]
    train = labeled([near, far, [far[0], -far[1]]], [0, 1, 1])
    # exp(1 / 0.07) against twice exp(cos 0.5 / 0.07): 5.7 times against 2.
    assert knn_accuracy(train, labeled([[1, 0]], [0]), neighbors=3) == 1.0


def test_more_neighbors_than_images():
    assert knn_accuracy(AXES, labeled([[1, 0], [0, 1]], [0, 1])) == 1.0


def test_neighbors_do_not_depend_on_feature_norms():
    asked = labeled([[0.01, 0.001], [5.0, 40.0]], [0, 1])
    assert knn_accuracy(AXES, asked, neighbors=2) == 1.0


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fit_is_where_the_gradient_is_zero(classes):
    draws = np.random.default_rng(0)
    train = labeled(draws.normal(size=(60, 4)), draws.integers(0, classes, 60))
    found = fit(train, penalty=0.1)
    weight, bias = torch.from_numpy(found.coef_.T), torch.from_numpy(found.intercept_)
    if classes == 2:  # scikit-learn keeps the difference of the two
        weight, bias = torch.cat([-weight / 2, weight / 2], 1), torch.cat([-bias / 2, bias / 2])
    x = torch.from_numpy(train.features_NE).double()
    excess = (x @ weight + bias).softmax(1) - torch.nn.functional.one_hot(torch.from_numpy(train.labels_N), classes)
    assert float((x.T @ excess / 60 + 0.1 * weight).abs().max()) < 1e-6
    assert float((excess.mean(0)).abs().max()) < 1e-6


def test_a_single_class_is_always_predicted():
    train = labeled([[1, 0], [0, 1]], [3, 3])
    assert linear_accuracy(train, train, labeled([[1, 0], [0, 1]], [3, 1])) == (0.5, 100.0)


def test_a_linear_classifier_separates_what_is_separable_and_nothing_else():
    asked = labeled([[0.8, 0.3], [0.2, 0.7]], [0, 1])
    accuracy, _ = linear_accuracy(AXES, AXES, asked)
    assert accuracy == 1.0
    xor = labeled([[0, 0], [1, 1], [0, 1], [1, 0]], [0, 0, 1, 1])
    assert linear_accuracy(xor, xor, xor)[0] <= 0.75


def test_the_penalty_is_chosen_on_validation_only():
    # With a large penalty only the bias of the majority class remains.
    train = labeled([[1, 0], [1, 0], [1, 0], [0, 1]], [0, 0, 0, 1])
    light, heavy = 1e-6, 100.0
    wants_light = labeled([[0, 1]], [1])
    wants_heavy = labeled([[0, 1]], [0])
    assert linear_accuracy(train, wants_light, wants_heavy, (light, heavy)) == (0.0, light)
    assert linear_accuracy(train, wants_heavy, wants_heavy, (light, heavy)) == (1.0, heavy)


def test_empty_splits_are_refused():
    none = LabeledFeatures(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="no labeled images"):
        knn_accuracy(AXES, none)
    with pytest.raises(ValueError, match="no labeled images"):
        linear_accuracy(AXES, none, AXES)
    with pytest.raises(ValueError, match="2 features for 1 labels"):
        labeled([[1, 0], [0, 1]], [0])
