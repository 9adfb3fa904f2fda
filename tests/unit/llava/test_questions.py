"""Questions about the scenes: right, balanced, and in disjoint splits."""

from collections import Counter

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.data.scenes.source import ScenesConfig, scene_of
from clips_pipeline.llava.questions import EOS, IMAGE, TYPES, Vocabulary, balanced_questions, chance_by_type

SCENES = ScenesConfig(train=400, validation=60, test=120)


@pytest.fixture(scope="module")
def asked():
    return balanced_questions(SCENES, "train", 600, 0)


def test_answers_are_those_of_the_scene(asked):
    for question in asked:
        scene = scene_of(SCENES, "train", question.index)
        main = scene.main
        expected = {
            "color": main.color,
            "kind": main.kind,
            "count": ["two", "three", "four"][len(scene.things) - 2],
            "where": f"{main.row} {main.column}",
            "background": scene.background,
            "exists": "yes" if question.text.split()[-2] in {thing.kind for thing in scene.things} else "no",
        }
        assert question.answer == expected[question.type]


def test_within_a_type_all_answers_are_equally_frequent(asked):
    for name in TYPES:
        counts = Counter(question.answer for question in asked if question.type == name)
        assert len(set(counts.values())) == 1, (name, counts)
    chance = chance_by_type(asked)
    assert chance["exists"] == 0.5
    assert chance["count"] == pytest.approx(1 / 3)
    assert chance["color"] == pytest.approx(1 / 11)


def test_a_kind_does_not_tell_whether_it_is_there():
    questions = balanced_questions(ScenesConfig(train=4000), "train", 24_000, 0)
    yes, no = (Counter(q.text for q in questions if q.type == "exists" and q.answer == name) for name in ("yes", "no"))
    # Guessing the more frequent answer of each kind gains little.
    best = sum(max(yes[text], no[text]) for text in {*yes, *no}) / (yes.total() + no.total())
    assert best < 0.54


def test_splits_ask_about_different_images_and_repeat(asked):
    assert balanced_questions(SCENES, "train", 600, 0) == asked
    assert balanced_questions(SCENES, "train", 600, 1) != asked
    keys = [{q.key for q in balanced_questions(SCENES, split, 300, 0)} for split in ("train", "validation", "test")]
    assert all(keys)
    assert not keys[0] & keys[1] | keys[1] & keys[2] | keys[0] & keys[2]


def test_the_vocabulary_has_all_words(asked):
    words = Vocabulary()
    for question in asked:
        assert words.decode([*words.encode(question.answer), EOS, IMAGE]) == question.answer
        assert len(words.encode(question.text)) == len(question.text.split())
    assert words.decode([IMAGE]) == "?"


@pytest.mark.parametrize(
    ("scenes", "count", "message"),
    [
        (ScenesConfig(train=100), 50, r"50 questions about 'train' are too few for the \d+ answers of type"),
        (ScenesConfig(train=0), 50, r"prepare.source.scenes.train: 0 scenes"),
    ],
)
def test_too_few_are_refused(scenes, count, message):
    with pytest.raises(ConfigError, match=message):
        balanced_questions(scenes, "train", count, 0)
