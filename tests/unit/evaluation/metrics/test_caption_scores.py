"""BLEU-4, ROUGE-L and CIDEr-D on captions with scores computed by hand."""

import math
from functools import partial

import pytest
from tests.peer_packages import install

from clips_pipeline.evaluation.metrics.caption_scores import corpus_scores, score_captions, words


def split(*texts):
    return [text.split() for text in texts]


def caption_scores(written, references):
    return corpus_scores(score_captions(written, references))


def _of(name, written, references):
    """Compute one score of captions given as words."""
    return caption_scores([" ".join(own) for own in written], [[" ".join(o) for o in others] for others in references])[
        name
    ]


bleu4, rouge_l, cider = (partial(_of, name) for name in ("bleu4", "rouge_l", "cider"))


def test_words():
    assert words("A dog's ball, 2 (red) balls -- don't! snake_case") == [
        "a", "dog's", "ball", "2", "red", "balls", "don't", "snake", "case",
    ]  # fmt: skip


def test_bleu_of_the_same_text_is_one_and_of_another_zero():
    assert bleu4(split("a b c d e"), [split("a b c d e")]) == pytest.approx(1.0)
    assert bleu4(split("a b c d e"), [split("v w x y z")]) == 0.0
    assert bleu4(split("a b c"), [split("a b c")]) == 0.0  # no run of four


def test_bleu_by_hand():
    # 1-grams 5 of 6, 2-grams 4 of 5, 3-grams 3 of 4, 4-grams 2 of 3; as long as its reference.
    expected = (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    assert bleu4(split("a b c d e x"), [split("a b c d e f")]) == pytest.approx(expected)


def test_bleu_clips_repeated_words_and_punishes_short_texts():
    # 1-grams: "a" counts at most twice, of 5.
    assert bleu4(split("a a a a a"), [split("a a b c d")]) == 0.0
    short = bleu4(split("a b c d"), [split("a b c d e f g h")])
    assert short == pytest.approx(math.exp(1 - 8 / 4))


def test_bleu_takes_the_nearest_length_and_the_best_count_of_all_references():
    references = [split("a b c d", "x a b c d y z w")]
    assert bleu4(split("a b c d"), references) == pytest.approx(1.0)


def test_bleu_is_a_corpus_score():
    written, references = split("a b c d e", "v w"), [split("a b c d e"), split("p q")]
    expected = (5 / 7 * 4 / 5 * 1 * 1) ** 0.25
    assert bleu4(written, references) == pytest.approx(expected)


def test_rouge_by_hand():
    # The common subsequence "a c e" has 3 of 4 written words and 3 of 5 of the reference.
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(split("a c x e"), [split("a b c d e")]) == pytest.approx(expected)
    assert rouge_l(split("a c x e", "q"), [split("a b c d e"), split("z")]) == pytest.approx(expected / 2)


def test_nothing_written_scores_nothing():
    assert rouge_l([[]], [split("a b")]) == 0.0
    assert cider([[], ["a"]], [split("a b"), split("a")]) == 0.0
    assert bleu4([[]], [split("a b")]) == 0.0


def test_cider_of_perfect_captions_is_ten():
    texts = ["a b c d e", "f g h i j"]
    assert cider(split(*texts), [split(text) for text in texts]) == pytest.approx(10.0)


def test_cider_by_hand():
    # Two images. Words seen in both weigh nothing: "a". Of the first, "b" is right and "x" is in no reference.
    written, references = split("a b x", "a c"), [split("a b d"), split("a c")]
    rare = math.log(2)
    # Order 1: made {b, x}, wanted {b, d}, all rare: 1/2. Order 2: made {ab, bx}, wanted {ab, bd}: 1/2. Order 3: 0. Order 4: none.
    first = (0.5 + 0.5) / 4
    # The second is its reference: orders 1 ("c") and 2, with nothing longer.
    second = (1 + 1) / 4
    assert rare > 0
    assert cider(written, references) == pytest.approx(10 * (first + second) / 2)


def test_cider_penalizes_length_differences_and_repetition():
    references = [split("a b"), split("c d")]
    once = cider(split("a b", "c d"), references)
    twice = cider(split("a b a b", "c d"), references)
    assert twice < once
    # Order 1 of the repeated text: (2, 2) against (1, 1) with counts clipped to 1: 2 / (sqrt 8 * sqrt 2) = 1/2. Order 2: ab twice
    # and ba once against ab: 1 / sqrt 5, where "ba", in no reference, weighs as much as the others.
    penalty = math.exp(-(2**2) / (2 * 36))
    assert twice == pytest.approx(10 * ((0.5 + 1 / math.sqrt(5)) / 4 * penalty + 0.5) / 2)


def test_all_three_from_plain_text():
    found = caption_scores(
        ["A red cube, on grass.", "Two dogs run on sand"], [["a red cube on grass"], ["two dogs run on sand"]]
    )
    assert found["bleu4"] == pytest.approx(1.0)
    assert found["rouge_l"] == pytest.approx(1.0)
    assert found["cider"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("written", "references", "message"),
    [([], [], "0 captions"), (["a"], [], "1 captions for 0"), (["a"], [[]], "no reference")],
)
def test_impossible_inputs_are_refused(written, references, message):
    with pytest.raises(ValueError, match=message):
        caption_scores(written, references)


@pytest.mark.slow
def test_the_published_implementation_agrees(tmp_path, monkeypatch):
    """Its scorers take words that are split already."""
    monkeypatch.syspath_prepend(install(tmp_path, "pycocoevalcap==1.2"))
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider_scorer import CiderScorer
    from pycocoevalcap.rouge.rouge import Rouge

    written = ["the cube on the grass is green", "two dogs run over a wide beach", "one tree"]
    references = [
        ["a red cube is on green grass", "the cube on the grass is red"],
        ["two brown dogs run over the beach", "dogs on a wide beach"],
        ["one tall tree in a field"],
    ]
    ours = caption_scores(written, references)
    scorer = CiderScorer(n=4, sigma=6.0)
    bleu = BleuScorer(n=4)
    for text, others in zip(written, references, strict=True):
        scorer += (text, others)
        bleu += (text, others)
    assert ours["cider"] == pytest.approx(float(scorer.compute_score()[0]), rel=1e-6)
    assert ours["bleu4"] == pytest.approx(bleu.compute_score(option="closest")[0][3], rel=1e-6)
    rouge = [Rouge().calc_score([text], others) for text, others in zip(written, references, strict=True)]
    assert ours["rouge_l"] == pytest.approx(sum(rouge) / 3, rel=1e-6)
