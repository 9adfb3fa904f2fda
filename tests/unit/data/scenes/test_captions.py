"""Captions are true where they should be, as noisy as configured, and as long as documented."""

import re
from statistics import mean

import pytest
from tests.unit.data.scenes.reading import ThingWords, named_things

from clips_pipeline.data.scenes.human_captions import human_captions
from clips_pipeline.data.scenes.lexicon import BACKDROP_WORDS, COLOR_WORDS, FOREIGN, KIND_WORDS, TEXTURE_WORDS
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.scene import BACKGROUNDS, COLORS, TEXTURES, Scene, relative_position
from clips_pipeline.data.scenes.shapes import KINDS
from clips_pipeline.data.scenes.source import SceneSample, ScenesConfig, scene_sample

COUNT = 2_000


@pytest.fixture(scope="module")
def samples() -> list[SceneSample]:
    return [scene_sample(ScenesConfig(), "train", index) for index in range(COUNT)]


def named_colors(sentence: str) -> set[str]:
    text = sentence.lower()
    return {color for color, words in COLOR_WORDS.items() if any(re.search(rf"\b{word}\b", text) for word in words)}


def is_true(named: ThingWords, scene: Scene) -> bool:
    return any(
        thing.kind == named.kind
        and named.color in (None, thing.color)
        and named.texture in (None, thing.texture)
        and named.size in (None, thing.size_name)
        for thing in scene.things
    )


def test_every_word_table_covers_everything_that_can_be_drawn() -> None:
    assert set(KIND_WORDS) == set(FOREIGN) == set(KINDS)
    assert set(COLOR_WORDS) == set(COLORS)
    assert set(TEXTURE_WORDS) == set(TEXTURES)
    assert set(BACKDROP_WORDS) == set(BACKGROUNDS)
    words = [word for names in KIND_WORDS.values() for word in names]
    assert len(words) == len(set(words)), "one word for two kinds"


def test_synthetic_sentences_are_true_unless_hallucinated(samples: list[SceneSample]) -> None:
    checked = 0
    for sample in samples:
        for index, sentence in enumerate(sample.synthetic.sentences):
            for named in named_things(sentence):
                if index not in sample.synthetic.hallucinated:
                    assert is_true(named, sample.scene), (sentence, sample.scene)
                    checked += 1
    assert checked > 4 * COUNT  # otherwise the test would check too little


def test_colors_and_patterns_named_with_a_verb_are_true(samples: list[SceneSample]) -> None:
    """ "The cat is small and white", "Stripes cover the blue hat": words separate from the name they belong to."""
    textures = {"strip": "striped", "dot": "dotted", "spot": "dotted", "check": "checked", "plain": "plain"}
    checked = 0
    for sample in samples:
        backdrop = BACKDROP_WORDS[sample.scene.background]
        for index, sentence in enumerate(sample.synthetic.sentences):
            named = named_things(sentence)
            tells_of_background = sentence in backdrop.sentences or any(phrase in sentence for phrase in backdrop.where)
            if len(named) != 1 or tells_of_background or index in sample.synthetic.hallucinated:
                continue
            thing = next(thing for thing in sample.scene.things if thing.kind == named[0].kind)
            assert named_colors(sentence) <= {thing.color}, (sentence, thing)
            assert {t for stem, t in textures.items() if stem in sentence.lower()} <= {thing.texture}, (sentence, thing)
            checked += len(named_colors(sentence))
    assert checked > COUNT // 2


def test_positions_and_relations_are_true(samples: list[SceneSample]) -> None:
    relations = places = 0
    for sample in samples:
        things = {thing.kind: thing for thing in sample.scene.things}
        for index, sentence in enumerate(sample.synthetic.sentences):
            if index in sample.synthetic.hallucinated:
                continue
            match = re.search(r"(?:to the (left|right) of|(above|below)) (?:an?|the) ", sentence)
            if match and named_things(sentence):  # not "a green meadow below a light sky"
                one, two = (things[named.kind] for named in named_things(sentence))
                assert relative_position(one, two) == (match[1] or match[2]), sentence
                relations += 1
            spots = re.findall(r"(upper|lower|top|bottom) (left|right)", sentence)
            named = [things[one.kind] for one in named_things(sentence)]
            if "next to" in sentence.lower() and "there is" in sentence:
                named.reverse()  # "next to a cup there is a cat at the top left"
            for (row, column), thing in zip(spots, named, strict=False):
                assert (thing.row, thing.column) == ({"upper": "top", "lower": "bottom"}.get(row, row), column), (
                    sentence
                )
                places += 1
    assert relations > COUNT // 2
    assert places > COUNT


def test_hallucinated_sentences_are_untrue(samples: list[SceneSample]) -> None:
    told = [(s.synthetic.sentences[i], s.scene) for s in samples for i in s.synthetic.hallucinated]
    for sentence, scene in told:
        kinds = {thing.kind for thing in scene.things}
        absent = any(named.kind not in kinds for named in named_things(sentence))
        colors = {thing.color for thing in scene.things if thing.kind in {n.kind for n in named_things(sentence)}}
        assert absent or named_colors(sentence) - colors, (sentence, scene)
    assert 0.12 * COUNT < len(told) < 0.18 * COUNT


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 200)])
def test_hallucination_probability_0_and_1(share: float, expected: int) -> None:
    config = ScenesConfig(hallucination=share)
    assert sum(len(scene_sample(config, "train", i).synthetic.hallucinated) for i in range(200)) == expected


def test_synthetic_length_is_that_of_a_recaptioner(samples: list[SceneSample]) -> None:
    captions = [sample.synthetic for sample in samples]
    assert 58 < mean(len(caption.text.split()) for caption in captions) < 66
    assert {len(caption.sentences) for caption in captions} == {3, 4, 5, 6, 7, 8, 9}
    for caption in captions:
        # The published rule for sub-captions splits at runs of "." and "!"; it must find exactly our sentences.
        pieces = [piece.strip() for piece in re.split(r"[.!]+", caption.text) if piece.strip()]
        assert pieces == list(caption.sentences)
        assert all(sentence[0].isupper() for sentence in caption.sentences)


def test_fragments_name_different_things(samples: list[SceneSample]) -> None:
    told = [len(named_things(sentence)) for sample in samples for sentence in sample.synthetic.sentences]
    shares = [sum(count == wanted for count in told) / len(told) for wanted in (0, 1)]
    assert shares[0] > 0.12, "too little filler"
    assert 0.1 < shares[1] < 0.3
    assert sum(count >= 2 for count in told) / len(told) > 0.5


def test_most_captions_list_every_thing_and_then_tell_where_each_is(samples: list[SceneSample]) -> None:
    in_pattern = 0
    for sample in samples:
        scene, sentences = sample.scene, sample.synthetic.sentences
        summary, second = sentences[:2]
        if not (
            re.match(r"The image (shows|features) a ", summary)
            and re.search(r" is at the \w+ \w+, (to|above|below) ", second)
        ):
            continue
        order = [(thing.kind, thing.color) for thing in (scene.main, *scene.others)]
        assert [(named.kind, named.color) for named in named_things(sentences[0])] == order
        places = [named_things(sentence) for sentence in sentences if re.search(r" is at the \w+ \w+, ", sentence)]
        told = [named[0].kind for named in places if len(named) == 2]
        assert told
        assert told == [kind for kind, _ in order][: len(told)], sentences
        in_pattern += 1
    assert 0.65 * COUNT < in_pattern < 0.75 * COUNT


def test_web_noise_matches_its_parameter(samples: list[SceneSample]) -> None:
    assert 5 < mean(len(sample.web.text.split()) for sample in samples) < 9
    assert all(sample.web.text.strip() for sample in samples)
    noisy = [sample.web.form for sample in samples if sample.web.form != "remark"]
    assert 0.46 * COUNT < len(noisy) < 0.54 * COUNT
    assert set(noisy) == {"wrong", "vague", "shop", "spam", "file", "foreign"}


def test_web_remarks_are_true_and_wrong_ones_are_not(samples: list[SceneSample]) -> None:
    for sample in samples:
        if sample.web.form == "remark":
            assert all(is_true(named, sample.scene) for named in named_things(sample.web.text)), sample.web
            assert named_things(sample.web.text)
    wrong = [sample for sample in samples if sample.web.form == "wrong"]
    untrue = [s for s in wrong if not all(is_true(named, s.scene) for named in named_things(s.web.text))]
    # A wrong color is visible only if the remark names a color.
    assert len(untrue) > 0.6 * len(wrong)


@pytest.mark.parametrize(("noise", "clean"), [(0.0, 300), (1.0, 0)])
def test_web_noise_0_and_1(noise: float, clean: int) -> None:
    config = ScenesConfig(web_noise=noise)
    assert sum(scene_sample(config, "train", i).web.form == "remark" for i in range(300)) == clean


def test_noise_affects_its_own_captions_only() -> None:
    plain, noisy = ScenesConfig(web_noise=0.2), ScenesConfig(web_noise=0.8)
    for index in range(100):
        one, two = scene_sample(plain, "train", index), scene_sample(noisy, "train", index)
        assert (one.scene, one.synthetic) == (two.scene, two.synthetic)
        if two.web.form == "remark":  # a remark at the higher noise is a remark at the lower one
            assert one.web == two.web


def test_human_captions_are_five_true_and_in_other_words(samples: list[SceneSample]) -> None:
    captions = [human_captions(sample.scene, RandomStream("human", i)) for i, sample in enumerate(samples)]
    words: list[int] = []
    for sample, five in zip(samples, captions, strict=True):
        assert len(five) == len(set(five)) == 5
        for caption in five:
            assert named_things(caption)
            assert all(is_true(named, sample.scene) for named in named_things(caption)), (caption, sample.scene)
            words.append(len(caption.split()))
    assert 9 < mean(words) < 12.5
    human = {word for five in captions for caption in five for word in re.findall(r"[a-z]+", caption.lower())}
    synthetic = {word for s in samples for word in re.findall(r"[a-z]+", s.synthetic.text.lower())}
    assert {"beside", "beneath", "downtown", "somebody"} <= human - synthetic
