"""Compositional questions: answers and accuracies counted by hand, examples, the cache, and an evaluation of real samples."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.evaluation.fixed_embedder import FixedEmbedder
from tests.unit.evaluation.sample_images import png

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.records import Caption, CaptionQuestion, Record
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_records
from clips_pipeline.evaluation.example_selection import select_questions
from clips_pipeline.evaluation.inference.image_pass import ImagePass, run_image_pass
from clips_pipeline.evaluation.metrics.caption_questions import MAX_SUBSETS, Answers, answer_questions
from clips_pipeline.evaluation.per_item.items import items_from_rows

ANGLES = {"at 0": 0.0, "at 10": 10.0, "at 50": 50.0, "at -10": -10.0, "at 90": 90.0}
Q = CaptionQuestion
# Images at 0 and at 60 degrees; the nearer caption is preferred.
IMAGES = ("a", "b")
QUESTIONS = {
    "a": (
        Q("color", "at 10", "at 50"),  # 10 < 50: right
        Q("color", "at 90", "at 50"),  # 90 > 50: wrong
        Q("number", "at 10", "at -10"),  # a tie: wrong
    ),
    "b": (
        Q("color", "at 50", "at 0"),  # 10 < 60: right
        Q("number", "at 90", "at 10"),  # 30 < 50: right
        Q("number", "at 50", "at 90"),  # 10 < 30: right
    ),
}
RIGHT = [True, False, False, True, True, True]
CPU = EvaluationConfig("few", device="cpu", captioning=False, examples=4)


def vectors(angles):
    turned = np.radians(list(angles))
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


def record(key, **changes):
    facts = {"captions": (f"of {key}",), "questions": QUESTIONS[key]}
    return Record(key, png(), "png", ("web",), (Caption("long."),), **(facts | changes))


def answers() -> Answers:
    asked = [question for key in IMAGES for question in QUESTIONS[key]]
    owners = [i for i, key in enumerate(IMAGES) for _ in QUESTIONS[key]]
    return answer_questions(lambda texts: vectors(ANGLES[text] for text in texts), vectors([0, 60]), asked, owners)


def evaluate(loaded, records, config=CPU):
    texts = {text: vectors([angle])[0] for text, angle in ANGLES.items()} | {"of a": (1, 0), "of b": (0, 1)}
    embedder = FixedEmbedder(loaded.model, loaded.image_transform, loaded.tokenizer, batch_size=2)
    embedder.set_embeddings(vectors([0, 60]).tolist(), texts)
    return evaluate_records(embedder, lambda: iter(records), None, config)


def test_the_more_similar_caption_is_the_answer_and_a_tie_is_wrong():
    assert answers().right.tolist() == RIGHT
    assert answers().subsets == ["color", "number"]
    assert answers().chance("few") == {
        f"compositionality/few/{name}_accuracy": 0.5 for name in ("color", "number", "mean")
    }


def test_each_caption_is_embedded_once():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return vectors(ANGLES[text] for text in texts)

    all_questions = [question for key in IMAGES for question in QUESTIONS[key]]
    answer_questions(encode, vectors([0, 60]), all_questions, [0, 0, 0, 1, 1, 1])
    assert sorted(asked) == sorted(ANGLES)


def test_metrics_of_an_evaluation_counted_by_hand(loaded):
    result = evaluate(loaded, [record("a"), record("b")])
    assert result.metrics["compositionality/few/color_accuracy"] == 2 / 3  # of a: 1 of 2; of b: 1 of 1
    assert result.metrics["compositionality/few/number_accuracy"] == 2 / 3  # of a: 0 of 1; of b: 2 of 2
    assert result.metrics["compositionality/few/mean_accuracy"] == pytest.approx(2 / 3)
    assert [(row["question_color"], row["question_number"]) for row in result.per_item] == [
        ([1, 0], [0]),
        ([1], [1, 1]),
    ]
    assert result.report_data.chance["compositionality/few/mean_accuracy"] == 0.5


def test_the_mean_is_that_of_subsets_and_not_of_questions(loaded):
    one = record("a", questions=QUESTIONS["a"][:1])
    result = evaluate(loaded, [one, record("b", questions=(Q("number", "at 10", "at 50"),) * 3)])
    assert result.metrics["compositionality/few/color_accuracy"] == 1.0
    assert result.metrics["compositionality/few/number_accuracy"] == 0.0
    assert result.metrics["compositionality/few/mean_accuracy"] == 0.5
    # An image without questions of a subset counts for none of its resamples.
    assert result.per_item[0]["question_number"] == []
    metric = items_from_rows(result.per_item).metric_of("compositionality/few/number_accuracy")
    assert metric.value() == 0.0


def test_without_questions_nothing_is_added(loaded):
    result = evaluate(loaded, [record("a", questions=()), record("b", questions=())])
    assert not [name for name in {**result.metrics, **result.report_data.chance} if "compositionality" in name]
    assert not [name for row in result.per_item for name in row if name.startswith("question_")]
    assert result.report_data.questions == ()


def test_questions_survive_the_cache(embedder):
    found = run_image_pass(embedder, [record("a"), record("b")], CPU)
    again = ImagePass.from_arrays(found.to_arrays())
    assert again.questions == found.questions == [question for key in IMAGES for question in QUESTIONS[key]]
    assert again.question_owners == [0, 0, 0, 1, 1, 1]
    # What an earlier release has cached.
    arrays = found.to_arrays()
    rest = json.loads(arrays["rest"].tobytes())
    del rest["questions"], rest["question_owners"]
    arrays["rest"] = np.frombuffer(json.dumps(rest).encode(), dtype=np.uint8)
    assert ImagePass.from_arrays(arrays).questions == []


def test_too_many_subsets_are_refused():
    asked = [Q(f"s{i}", "at 0", "at 10") for i in range(MAX_SUBSETS + 1)]
    with pytest.raises(ConfigError, match=rf"questions of {MAX_SUBSETS + 1} subsets, such as s0, s1, s10; at most"):
        answer_questions(lambda texts: vectors(ANGLES[text] for text in texts), vectors([0]), asked, [0] * len(asked))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 25])
def test_examples_take_the_subsets_in_turn(count):
    found = answers()
    shown = select_questions(found, lambda: iter([record("a"), record("b")]), count)
    assert len(shown) <= min(count, 6)
    assert len({(one.image.key, one.caption, one.negative) for one in shown}) == len(shown)
    assert [one.subset for one in shown[:2]] == ["color", "number"][:count]
    if count in (2, 5, 25):
        assert {one.image.key for one in shown} == {"a", "b"}
    for one in shown:
        place = QUESTIONS[one.image.key].index((one.subset, one.caption, one.negative))
        assert one.right == RIGHT[3 * IMAGES.index(one.image.key) + place]
        assert one.preferred_first[0] == ((one.caption, True) if one.right else (one.negative, False))


def test_examples_read_no_sample_without_questions():
    def read():
        raise AssertionError

    assert select_questions(replace(answers(), questions=()), read, 4) == ()
    assert select_questions(answers(), read, 0) == ()
