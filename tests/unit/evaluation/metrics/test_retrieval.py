"""Ranks that can be counted by hand, ties, and equality with a plain double loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clips_pipeline.evaluation.metrics.retrieval import (
    NO_CAPTION,
    RetrievalRanks,
    chance_recall,
    recall,
    recall_metrics,
    retrieval_ranks,
)


def ranks_of_scores(score_NM, owner_M, **options):
    """Ranks for a score matrix: with unit vectors as images, caption j's embedding is simply column j."""
    score_NM = np.array(score_NM, dtype=np.float32)
    return retrieval_ranks(np.eye(len(score_NM), dtype=np.float32), score_NM.T, np.array(owner_M), **options)


def naive_ranks(image_NE, text_ME, owner_M):
    score = image_NE.astype(np.float64) @ text_ME.astype(np.float64).T
    image_to_text = []
    for i in range(len(score)):
        own = [score[i, j] for j in range(len(owner_M)) if owner_M[j] == i]
        others = [score[i, j] for j in range(len(owner_M)) if owner_M[j] != i]
        image_to_text.append(sum(s >= max(own) - 1e-6 for s in others) if own else NO_CAPTION)
    text_to_image = []
    for j, i in enumerate(owner_M):
        text_to_image.append(sum(score[k, j] >= score[i, j] - 1e-6 for k in range(len(score)) if k != i))
    return image_to_text, text_to_image


def test_one_caption_each_by_hand():
    ranks = ranks_of_scores(
        [
            [0.9, 0.1, 0.2],
            [0.8, 0.5, 0.6],
            [0.1, 0.2, 0.3],
        ],
        [0, 1, 2],
    )
    # Rows: own scores .9 (first), .5 (behind .8 and .6), .3 (first).
    assert ranks.image_to_text.tolist() == [0, 2, 0]
    # Columns: .9 (first), .5 (first), .3 (behind .6).
    assert ranks.text_to_image.tolist() == [0, 0, 1]
    metrics = recall_metrics(ranks)
    assert metrics["image_to_text_recall@1"] == pytest.approx(2 / 3)
    assert metrics["text_to_image_recall@1"] == pytest.approx(2 / 3)
    assert metrics["mean_recall@1"] == pytest.approx(2 / 3)
    assert metrics["image_to_text_recall@5"] == metrics["text_to_image_recall@10"] == 1.0


def test_any_of_several_captions_finds_the_image_and_each_caption_counts_alone():
    ranks = ranks_of_scores(
        [
            [0.1, 0.9, 0.3, 0.5, 0.2],
            [0.2, 0.4, 0.3, 0.1, 0.6],
        ],
        [0, 0, 0, 1, 1],
    )
    assert ranks.image_to_text.tolist() == [0, 0]
    assert ranks.text_to_image.tolist() == [1, 0, 1, 1, 0]
    metrics = recall_metrics(ranks)
    assert metrics["image_to_text_recall@1"] == 1.0
    assert metrics["text_to_image_recall@1"] == pytest.approx(2 / 5)
    assert metrics["mean_recall@1"] == pytest.approx(0.7)


def test_captions_of_one_image_are_not_competitors():
    ranks = ranks_of_scores([[0.5, 0.5, 0.5, 0.4], [0, 0, 0, 0.9]], [0, 0, 0, 1])
    assert ranks.image_to_text.tolist() == [0, 0]


def test_a_tie_with_a_competitor_counts_against():
    ranks = ranks_of_scores([[0.5, 0.5], [0.5, 0.5]], [0, 1])
    assert ranks.image_to_text.tolist() == [1, 1]
    assert ranks.text_to_image.tolist() == [1, 1]


def test_constant_embeddings_find_nothing():
    image_NE = np.tile(np.float32([0.6, 0.8]), (20, 1))
    metrics = recall_metrics(retrieval_ranks(image_NE, np.tile(image_NE, (3, 1)), np.arange(60) % 20))
    assert metrics == dict.fromkeys(metrics, 0.0)


@pytest.mark.parametrize("width", [7, 64, 333])
def test_duplicate_captions_tie_whatever_the_matrix_product_rounds(width):
    rng = np.random.default_rng(3)
    image_NE = rng.normal(size=(67, width)).astype(np.float32)
    image_NE /= np.linalg.norm(image_NE, axis=1, keepdims=True)
    # Every caption equals the embedding of its image, and every image occurs twice.
    doubled = np.concatenate([image_NE, image_NE])
    ranks = retrieval_ranks(doubled, doubled, np.arange(len(doubled)), score_budget=1000)
    assert set(ranks.image_to_text) == {1}
    assert set(ranks.text_to_image) == {1}


def test_an_image_without_caption_is_a_candidate_but_not_a_query():
    ranks = ranks_of_scores([[0.3, 0.2], [0.9, 0.1], [0.1, 0.5]], [0, 2])
    assert ranks.image_to_text.tolist() == [0, NO_CAPTION, 0]
    assert ranks.text_to_image.tolist() == [1, 0]
    assert recall(ranks.image_to_text, 1) == 1.0


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 9),
    captions=st.integers(1, 14),
    seed=st.integers(0, 10_000),
    budget=st.sampled_from([1, 17, 10_000]),
    levels=st.sampled_from([2, 100]),
)
def test_equals_the_double_loop_for_any_owners_order_ties_and_chunking(images, captions, seed, budget, levels):
    rng = np.random.default_rng(seed)
    # Coarse values make ties common.
    image_NE = rng.integers(0, levels, size=(images, 3)).astype(np.float32) / levels
    text_ME = rng.integers(0, levels, size=(captions, 3)).astype(np.float32) / levels
    owner_M = rng.integers(0, images, size=captions)
    ranks = retrieval_ranks(image_NE, text_ME, owner_M, score_budget=budget)
    image_to_text, text_to_image = naive_ranks(image_NE, text_ME, owner_M)
    assert ranks.image_to_text.tolist() == image_to_text
    assert ranks.text_to_image.tolist() == text_to_image


def test_recall_is_the_fraction_below_k():
    rank_X = np.array([0, 0, 4, 5, 9, 10, NO_CAPTION])
    assert recall(rank_X, 1) == pytest.approx(2 / 6)
    assert recall(rank_X, 5) == pytest.approx(3 / 6)
    assert recall(rank_X, 10) == pytest.approx(5 / 6)


def test_chance_by_hand():
    # Two images; the first has three captions, the second one.
    chance = chance_recall(np.array([0, 0, 0, 1]), images=2, at=(1, 2))
    assert chance["image_to_text_recall@1"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    # Two draws from four never miss three captions; they miss a single caption with probability 3/4 * 2/3.
    assert chance["image_to_text_recall@2"] == pytest.approx((1.0 + 0.5) / 2)
    assert chance["text_to_image_recall@1"] == 0.5
    assert chance["mean_recall@1"] == pytest.approx(0.5)


def test_random_embeddings_are_near_chance():
    rng = np.random.default_rng(0)
    image_NE, text_ME = rng.normal(size=(400, 16)), rng.normal(size=(1200, 16))
    owner_M = np.arange(1200) % 400
    metrics = recall_metrics(retrieval_ranks(image_NE, text_ME, owner_M))
    chance = chance_recall(owner_M, 400)
    for name, value in chance.items():
        assert metrics[name] == pytest.approx(value, abs=4 * (value * (1 - value) / 400) ** 0.5 + 1e-3)


@pytest.mark.parametrize(
    ("image", "text", "owner", "message"),
    [
        (np.eye(2), np.eye(3), [0, 0, 0], "must be"),
        (np.eye(2), np.eye(2), [0], "one owner per caption"),
        (np.eye(2), np.eye(2), [0, 2], "owners must be rows"),
        (np.eye(2), np.eye(2), [0, -1], "owners must be rows"),
        (np.eye(2)[:0], np.eye(2), [0, 0], "needs images and captions"),
        (np.eye(2) * np.nan, np.eye(2), [0, 1], "image embeddings contain NaN"),
        (np.eye(2), np.full((2, 2), np.inf), [0, 1], "caption embeddings contain NaN"),
    ],
)
def test_unusable_input_is_refused(image, text, owner, message):
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(image, text, np.array(owner))


def test_recall_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no image has a caption"):
        recall_metrics(RetrievalRanks(np.array([NO_CAPTION]), np.array([], dtype=np.int64)))
    with pytest.raises(ValueError, match="k must be 1 or more"):
        recall(np.array([0]), 0)
