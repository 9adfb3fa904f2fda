"""Questions about scenes: true of the scene, in known words, and no text tells which caption is the true one."""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from math import log, sqrt

import pytest
from tests.unit.data.scenes.reading import COLORS_BY_WORD, KINDS_BY_WORD, named_things

from clips_pipeline.data.scenes.questions import SUBSETS, scene_questions
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.scene import FLYING, Scene, draw_scene
from clips_pipeline.data.scenes.source import ScenesConfig, scene_record, scene_sample
from clips_pipeline.data.shards.caption_questions import CaptionQuestion

COUNT = 4_000
NUMBERS = {"two": 2, "three": 3, "four": 4}
SIDES = {"to the left of": "left", "to the right of": "right", "above": "above", "over": "above"}
SIDES |= {"below": "below", "under": "below"}


@dataclass(frozen=True)
class Asked:
    scene: Scene
    question: CaptionQuestion


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    scenes = [draw_scene(RandomStream(7, "test", index, "scene")) for index in range(COUNT)]
    return [
        Asked(scene, question)
        for index, scene in enumerate(scenes)
        for question in scene_questions(scene, RandomStream(7, "test", index, "questions"))
    ]


def is_true(caption: str, scene: Scene) -> bool:
    """Read a caption and compare all that it says with the scene."""
    if number := re.search(r"(two|three|four) items$", caption):
        return len(scene.things) == NUMBERS[number[1]]
    things = {thing.kind: thing for thing in scene.things}
    named = named_things(caption)
    assert named, caption
    if any(one.kind not in things or (one.color is not None and things[one.kind].color != one.color) for one in named):
        return False
    sides = [side for words, side in SIDES.items() if f" {words} " in caption]
    if not sides:
        return True
    first, second = (things[one.kind] for one in named)
    return {
        "left": first.x < second.x,
        "right": first.x > second.x,
        "above": first.y < second.y,
        "below": first.y > second.y,
    }[sides[0]]


def test_the_caption_is_true_and_the_other_one_false(asked: list[Asked]) -> None:
    for one in asked:
        assert is_true(one.question.caption, one.scene), one
        assert not is_true(one.question.negative, one.scene), one


def test_every_subset_is_asked_of_most_scenes(asked: list[Asked]) -> None:
    counts = Counter(one.question.subset for one in asked)
    assert tuple(sorted(counts)) == SUBSETS
    assert counts["replace_color"] == counts["replace_thing"] == COUNT
    assert all(count > 0.85 * COUNT for count in counts.values()), counts


def test_captions_say_what_their_subset_says(asked: list[Asked]) -> None:
    for one in asked:
        subset, caption, negative = one.question
        right, wrong = ([(thing.kind, thing.color) for thing in named_things(text)] for text in (caption, negative))
        if subset == "replace_color":
            assert [kind for kind, _ in right] == [kind for kind, _ in wrong]
            assert len(right) == 1
        elif subset == "replace_thing":
            assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 1
            assert len(right) == 2
        elif subset == "swap_color":
            assert [kind for kind, _ in right] == [kind for kind, _ in wrong]
            assert [color for _, color in right] == [color for _, color in reversed(wrong)]
        elif subset == "swap_place":
            assert right == wrong[::-1]
            assert all(color is None for _, color in right)
        else:
            assert (right, wrong) == ([], [])


def test_swapped_captions_have_the_same_words(asked: list[Asked]) -> None:
    """A reader of words without their order cannot answer: both captions have the same."""

    def words(text: str) -> list[str]:
        return sorted(re.sub(r"\ban\b", "a", text).split())

    swapped = [one.question for one in asked if one.question.subset.startswith("swap_")]
    assert all(words(question.caption) == words(question.negative) for question in swapped)


def test_all_words_occur_in_the_training_captions(asked: list[Asked]) -> None:
    texts = (
        text
        for index in range(3_000)
        for sample in [scene_sample(ScenesConfig(), "train", index)]
        for text in (sample.web.text, sample.synthetic.text)
    )
    known = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    used = {word for one in asked for word in re.findall(r"[a-z]+", one.question.caption + " " + one.question.negative)}
    assert used <= known, used - known


# --- A reader that sees no image: it learns from one half of the questions what true captions look like.


def features(caption: str) -> set[str]:
    """Return words, word pairs, kinds with their place in the caption, and whether one thing flies and the other does not."""
    words = caption.split()
    kinds = [thing.kind for thing in named_things(caption)]
    sides = [side for phrase, side in SIDES.items() if f" {phrase} " in caption]
    found = {*words, *(" ".join(two) for two in pairwise(words))}
    found |= {f"{place} {kind}" for place, kind in enumerate(kinds)}
    if sides and len(kinds) == 2:
        found.add(f"{kinds[0] in FLYING} {sides[0]} {kinds[1] in FLYING}")
    return found


def text_only_accuracy(questions: list[tuple[str, str]]) -> float:
    """Return the accuracy, on the second half, of a reader that knows how often each feature of the first half was true."""
    half = len(questions) // 2
    true, false = (Counter(f for pair in questions[:half] for f in features(pair[place])) for place in (0, 1))

    def score(caption: str) -> float:
        return sum(log((true[f] + 1) / (false[f] + 1)) for f in features(caption))

    scores = [(score(caption), score(negative)) for caption, negative in questions[half:]]
    return sum(0.5 if a == b else a > b for a, b in scores) / len(scores)


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_reader_of_the_text_alone_is_at_chance(asked: list[Asked], subset: str) -> None:
    questions = [(one.question.caption, one.question.negative) for one in asked if one.question.subset == subset]
    # Four standard deviations of the second half.
    assert abs(text_only_accuracy(questions) - 0.5) < 4 * 0.5 / sqrt(len(questions) / 2)


def test_the_reader_of_the_text_finds_a_bias_where_there_is_one(asked: list[Asked]) -> None:
    """Flying things are above others, which questions about places therefore do not ask; numbers are not equally frequent."""
    above = []
    for one in {id(one.scene): one for one in asked}.values():
        for a in one.scene.things:
            for b in one.scene.things:
                if a.x == b.x and a.y < b.y:
                    above.append((f"a {a.kind} above a {b.kind}", f"a {b.kind} above a {a.kind}"))
    assert text_only_accuracy(above) > 0.6
    wrong = {2: 3, 3: 2, 4: 3}
    words = {number: word for word, number in NUMBERS.items()}
    naive = [
        (f"{words[len(one.scene.things)]} items", f"{words[wrong[len(one.scene.things)]]} items")
        for one in {id(one.scene): one for one in asked}.values()
    ]
    assert text_only_accuracy(naive) > 0.55


def test_no_number_is_more_often_true_than_the_other_of_its_question(asked: list[Asked]) -> None:
    pairs = Counter(
        (one.question.caption.split()[-2], one.question.negative.split()[-2])
        for one in asked
        if one.question.subset == "replace_number"
    )
    assert len(pairs) == 6
    for (true, false), count in pairs.items():
        # Four standard deviations of a fair coin.
        assert abs(count - pairs[false, true]) < 4 * sqrt(count + pairs[false, true])


def test_colors_and_kinds_are_asked_evenly(asked: list[Asked]) -> None:
    """Each value is about as often in the true as in the false caption."""
    for subset, place in (("replace_color", 1), ("replace_thing", 0)):
        true, false = (
            Counter(
                (thing.kind, thing.color)[place]
                for one in asked
                if one.question.subset == subset
                for thing in named_things(text(one.question))
            )
            for text in (lambda question: question.caption, lambda question: question.negative)
        )
        values = set(COLORS_BY_WORD.values()) if place else set(KINDS_BY_WORD.values())
        assert set(true) == set(false) == values
        for value in values:
            assert abs(true[value] - false[value]) < 4.5 * sqrt(true[value] + false[value]), (subset, value)


def test_only_held_out_scenes_are_asked_about_and_nothing_else_changes() -> None:
    config = ScenesConfig()
    assert scene_record(config, "train", 3).questions == ()
    for split in ("validation", "test"):
        record = scene_record(config, split, 3)
        scene = scene_sample(config, split, 3).scene
        assert record.questions == scene_questions(scene, RandomStream(0, split, 3, "questions"))
        # Noise of captions does not change them.
        assert scene_record(ScenesConfig(web_noise=1.0, hallucination=1.0), split, 3).questions == record.questions
