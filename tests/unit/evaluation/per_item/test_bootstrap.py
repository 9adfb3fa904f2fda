"""Bootstrap by class and of corpora, against enumeration of all samples and against separate computation of each."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest

from clips_pipeline.evaluation.metrics.caption_scores import corpus_scores, score_captions
from clips_pipeline.evaluation.per_item.bootstrap import NO_CLASS, Ratio, RatioMetric, bootstrap, hit_ratio
from clips_pipeline.evaluation.per_item.comparison import compare, intervals
from clips_pipeline.evaluation.per_item.items import ItemResults, compositionality_items, items_from_rows

PER_CLASS = "zero_shot/some/mean_per_class_accuracy@1"
BLEU = "caption/some/bleu4"
NOTHING = {
    "image_to_text_rank": None,
    "text_to_image_ranks": [],
    "label": None,
    "zero_shot_rank": None,
    "caption_nats": 0.0,
    "caption_tokens": 0,
}


def mean_per_class_accuracy(rank_N: np.ndarray, label_N: np.ndarray) -> float:
    return float(np.mean([np.mean(rank_N[label_N == label] < 1) for label in np.unique(label_N)]))


def labeled(*found: tuple[int | None, int | None]) -> ItemResults:
    """Build per-item results from classes and ranks."""
    return items_from_rows(
        NOTHING | {"key": f"k{n}", "label": label, "zero_shot_rank": rank} for n, (label, rank) in enumerate(found)
    )


def captioned(*pairs: tuple[str, str] | None) -> ItemResults:
    """Build per-item results from written captions and references; None for an image without them."""
    scores = iter(score_captions(*zip(*((a, [b]) for a, b in filter(None, pairs)), strict=True)))
    rows = []
    for number, pair in enumerate(pairs):
        score = None if pair is None else next(scores)
        columns = {
            "caption_rouge_l": score and score.rouge_l,
            "caption_cider": score and score.cider,
            "caption_matches": score and list(score.matches),
            "caption_ngrams": score and list(score.ngrams),
            "caption_words": score and score.words,
            "caption_reference_words": score and score.reference_words,
        }
        rows.append(NOTHING | {"key": f"k{number}"} | columns)
    return items_from_rows(rows)


def shares(value_R: np.ndarray) -> dict[float, float]:
    """Count each value; NaN counts as -1."""
    values, counts = np.unique(np.where(np.isnan(value_R), -1.0, value_R).round(9), return_counts=True)
    return dict(zip(values.tolist(), (counts / len(value_R)).tolist(), strict=True))


def test_classes_that_do_not_occur_do_not_count():
    """Two images of class 5, one of which is right, and one of class 2, which is right: 27 equally likely draws."""
    right, labels = (True, False, True), (5, 5, 2)
    wanted: dict[float, float] = {}
    for draw in itertools.product(range(3), repeat=3):
        of_class = [[right[i] for i in draw if labels[i] == label] for label in (2, 5)]
        value = round(float(np.mean([np.mean(hits) for hits in of_class if hits])), 9)
        wanted[value] = wanted.get(value, 0) + 1 / 27
    items = labeled((5, 0), (5, 3), (2, 0))
    assert items.metric_of(PER_CLASS).value() == 0.75
    found = shares(bootstrap([items.metric_of(PER_CLASS)], 3, 100_000, 0)[0])
    assert found == pytest.approx(wanted, abs=0.006)


def test_an_image_without_class_counts_for_none():
    items = labeled((None, None), (1, 0))
    found = shares(bootstrap([items.metric_of(PER_CLASS)], 2, 20_000, 0)[0])
    # One of four resamples has no labeled image, so its value is NaN.
    assert found == pytest.approx({1.0: 3 / 4, -1.0: 1 / 4}, abs=0.02)
    assert intervals({"some": items}, [PER_CLASS]) == {PER_CLASS: (1.0, 1.0)}


def test_draws_by_class_are_those_computed_one_by_one():
    draws = np.random.default_rng(7)
    labels, ranks = draws.integers(0, 40, 300), draws.integers(0, 3, 300)
    items = labeled(*zip(labels.tolist(), ranks.tolist(), strict=True))
    every = np.ones(300, np.bool_)
    other = RatioMetric((hit_ratio(ranks < 2, every, labels), hit_ratio(ranks < 1, every)))
    found, _, both = bootstrap(
        [items.metric_of(PER_CLASS), items.metric_of("zero_shot/s/accuracy@1"), other], 300, 50, 3
    )
    drawn_RN = np.random.default_rng(3).integers(0, 300, (50, 300))
    for draw_N, value, other_value in zip(drawn_RN, found, both, strict=True):
        assert value == pytest.approx(mean_per_class_accuracy(ranks[draw_N], labels[draw_N]))
        top2 = mean_per_class_accuracy(np.maximum(ranks[draw_N] - 1, 0), labels[draw_N])
        assert other_value == pytest.approx((top2 + np.mean(ranks[draw_N] < 1)) / 2)


def test_models_are_paired_by_key_also_by_class():
    found = [(0, 0), (0, 3), (1, 0), (2, 1)]
    a = labeled(*found)
    turned = items_from_rows(
        reversed([NOTHING | {"key": f"k{n}", "label": c, "zero_shot_rank": r} for n, (c, r) in enumerate(found)])
    )
    one = compare(a, turned, [PER_CLASS], resamples=300)[0]
    assert (one.low, one.high, one.wins, one.losses) == (0.0, 0.0, 0, 0)
    better = compare(a, labeled((0, 0), (0, 0), (1, 0), (2, 0)), [PER_CLASS], resamples=300)[0]
    assert (better.a, better.b, better.wins, better.losses) == (0.5, 1.0, 2, 0)


def test_a_bootstrap_without_items_is_refused():
    with pytest.raises(ValueError, match="items is 0"):
        bootstrap([], 0, 10, 0)


def test_a_thousand_classes_are_sparse():
    images, classes = 50_000, 1_000
    draws = np.random.default_rng(0)
    part = hit_ratio(draws.random(images) < 0.5, np.ones(images, np.bool_), draws.integers(0, classes, images))
    tracemalloc.start()
    value_R = bootstrap([RatioMetric((part,))], images, 160, 0)[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Dense numerators and denominators per class would take 800 MB.
    assert peak < 400e6
    assert abs(value_R.mean() - 0.5) < 0.02


def test_bleu_of_a_bootstrap_sample():
    """A caption that is right and one that shares a word with its reference: four equally likely draws."""
    items = captioned(("a b c d e", "a b c d e"), ("a w", "a q"))
    of_both = (6 / 7 * 4 / 5 * 3 / 3 * 2 / 2) ** 0.25
    assert items.metric_of(BLEU).value() == pytest.approx(of_both)
    found = shares(bootstrap([items.metric_of(BLEU)], 2, 40_000, 0)[0])
    assert found == pytest.approx({1.0: 1 / 4, round(of_both, 9): 1 / 2, 0.0: 1 / 4}, abs=0.01)


def test_bleu_applies_the_brevity_penalty_to_a_bootstrap_sample():
    items = captioned(("a b c d", "a b c d e f g h"), ("p q r s t u", "p q r s t u"))
    both, short = math.exp(1 - 14 / 10), math.exp(1 - 8 / 4)
    found = shares(bootstrap([items.metric_of(BLEU)], 2, 40_000, 0)[0])
    assert found == pytest.approx({1.0: 1 / 4, round(both, 9): 1 / 2, round(short, 9): 1 / 4}, abs=0.01)


def test_bleu_of_a_sample_without_captions_is_nan():
    found = shares(bootstrap([captioned(("a b c d", "a b c d"), None).metric_of(BLEU)], 2, 20_000, 0)[0])
    assert found == pytest.approx({1.0: 3 / 4, -1.0: 1 / 4}, abs=0.02)


def test_captions_without_any_word_score_nothing():
    for pair in (("", "a b c d"), ("!", "?")):
        items = captioned(pair, pair)
        values = [items.metric_of(f"caption/s/{name}").value() for name in ("bleu4", "rouge_l", "cider")]
        assert values == [0.0, 0.0, 0.0]
        assert set(corpus_scores(score_captions([pair[0]] * 2, [[pair[1]]] * 2)).values()) == {0.0}


def test_corpus_scores_are_bitwise_equal_and_equal_per_sample():
    texts = ["the red cube is on grass", "a dog runs on the wide beach", "one tall tree", "the green ball is on sand"]
    wanted = ["the red cube is on green grass", "a brown dog runs on the wide beach", "one tall tree", "a ball on sand"]
    items = captioned(*zip(texts, wanted, strict=True))
    scores = score_captions(texts, [[text] for text in wanted])
    for name, value in corpus_scores(scores).items():
        assert value > 0
        assert items.metric_of(f"caption/s/{name}").value() == value
    names = ("bleu4", "rouge_l", "cider")
    drawn_RN = np.random.default_rng(1).integers(0, 4, (100, 4))
    found = bootstrap([items.metric_of(f"caption/s/{name}") for name in names], 4, 100, 1)
    for row, draw in enumerate(drawn_RN.tolist()):
        # Document frequencies are those of the whole set in every resample.
        one = corpus_scores([scores[i] for i in draw])
        assert [value_R[row] for value_R in found] == pytest.approx([one[name] for name in names])


def test_the_sign_test_of_bleu_uses_single_captions():
    a = captioned(("a b c d", "a b c d"), ("w x y z", "a b c d"), ("q", "r"), None)
    b = captioned(("a b c d", "a b c d"), ("a b c d", "a b c d"), ("r", "r"), None)
    found = compare(a, b, [BLEU, "caption/some/rouge_l"], resamples=50)
    # A single word has no 4-grams, so both are 0.
    assert [(one.wins, one.losses) for one in found] == [(1, 0), (2, 0)]


def entries(right: dict[str, list[bool]]) -> ItemResults:
    """Build entries of one subset by image."""
    rows = [
        {"set": "sugarcrepe", "key": f"swap_obj/{image}{i}", "subset": "swap_obj", "image": image, "right": hit}
        for image, hits in right.items()
        for i, hit in enumerate(hits)
    ]
    return compositionality_items(rows)["sugarcrepe"]


def test_entries_on_one_image_stay_together():
    """Drawing single entries would underestimate the interval, since a hundred of them are of one image."""
    a, b = entries({"x": [False] * 100, "y": [True] * 100}), entries({"x": [True] * 100, "y": [False] * 100})
    found = compare(a, b, ["sugarcrepe/swap_obj/accuracy"])[0]
    assert (found.low, found.high, found.wins, found.losses) == (-1.0, 1.0, 1, 1)


def test_the_mean_is_over_subsets_not_entries():
    rows = [
        {"set": "sugarcrepe", "key": f"{subset}/{i}", "subset": subset, "image": str(i), "right": hit}
        for subset, hits in (("add_att", [True]), ("swap_att", [False, False, True]))
        for i, hit in enumerate(hits)
    ]
    items = compositionality_items(rows)["sugarcrepe"]
    assert items.metric_of("sugarcrepe/mean/accuracy").value() == pytest.approx((1 + 1 / 3) / 2)


def test_a_ratio_with_denominator_zero_is_nan():
    none = np.zeros(2)
    assert math.isnan(Ratio(none, none).value())
    assert math.isnan(Ratio(none, none, np.array([NO_CLASS, 3])).value())
