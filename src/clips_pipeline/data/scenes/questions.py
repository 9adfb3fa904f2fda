"""Compositional questions about a scene: a true caption, and one in the same words, or with one word replaced, that is false.

In the manner of SugarCrepe. Captions are worded as the human-style captions are, in words that training captions have too. The
captions of a question are exchangeable: of any two captions, each is as often the true one, so their text says nothing about which.
Every draw below keeps that; `tests/unit/data/scenes/test_questions.py` tests it.
"""

from itertools import combinations

from clips_pipeline.data.scenes.lexicon import COLOR_WORDS, KIND_WORDS, choose, with_article
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.scene import (
    COLORS,
    FLYING,
    NUMBER_WEIGHTS,
    Scene,
    Thing,
    relative_position,
)
from clips_pipeline.data.scenes.shapes import KINDS
from clips_pipeline.data.scenes.synthetic_captions import NUMBERS
from clips_pipeline.data.shards.caption_questions import CaptionQuestion

SUBSETS = ("replace_color", "replace_number", "replace_thing", "swap_color", "swap_place")

_OPENINGS = ("", "we see ", "a picture of ")
_SIDES = {
    "left": ("to the left of",),
    "right": ("to the right of",),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_SYNONYMS = 0.4
"""Probability of a synonym for each word, as in the human-style captions."""


def scene_questions(scene: Scene, draws: RandomStream) -> tuple[CaptionQuestion, ...]:
    """Ask at most one question of each subset about a scene.

    Args:
        scene: the scene.
        draws: its stream of random numbers for questions.
    """
    askers = (_replace_color, _replace_number, _replace_thing, _swap_color, _swap_place)
    found = []
    for subset, ask in zip(SUBSETS, askers, strict=True):
        captions = ask(scene, draws)
        if captions is not None:
            opening = draws.pick(_OPENINGS)
            found.append(CaptionQuestion(subset, *(opening + caption for caption in captions)))
    return tuple(found)


Captions = tuple[str, str]
"""The true caption and the false one, without an opening."""


def _replace_color(scene: Scene, draws: RandomStream) -> Captions:
    """Ask for the color of one thing."""
    thing = draws.pick(scene.things)
    other = draws.pick([color for color in COLORS if color != thing.color])
    kind = _kind(thing.kind, draws)
    right, wrong = (with_article(f"{_color(color, draws)} {kind}") for color in (thing.color, other))
    return right, wrong


def _replace_number(scene: Scene, draws: RandomStream) -> Captions | None:
    """Ask for the number of things.

    Not all numbers are equally frequent. So a question is left out with the probability that makes both of its numbers equally
    often the true one.
    """
    weights = dict(NUMBER_WEIGHTS)
    true = len(scene.things)
    false = draws.pick([number for number in weights if number != true])
    if draws.below(weights[true]) >= weights[false]:
        return None
    return f"{NUMBERS[true]} items", f"{NUMBERS[false]} items"


def _replace_thing(scene: Scene, draws: RandomStream) -> Captions:
    """Ask which of two things is there, beside another one that is."""
    one, two = draws.shuffled(scene.things)[:2]
    present = {thing.kind for thing in scene.things}
    absent = draws.pick([kind for kind in KINDS if kind not in present])
    first = draws.chance(0.5)
    beside = with_article(_kind(two.kind, draws))
    right, wrong = (with_article(_kind(kind, draws)) for kind in (one.kind, absent))
    if first:
        return f"{right} and {beside}", f"{wrong} and {beside}"
    return f"{beside} and {right}", f"{beside} and {wrong}"


def _swap_color(scene: Scene, draws: RandomStream) -> Captions | None:
    """Ask which of two colors belongs to which of two things."""
    pairs = [pair for pair in combinations(scene.things, 2) if pair[0].color != pair[1].color]
    if not pairs:
        return None
    one, two = draws.shuffled(draws.pick(pairs))
    kinds = [_kind(thing.kind, draws) for thing in (one, two)]
    colors = [_color(thing.color, draws) for thing in (one, two)]
    right, wrong = (
        " and ".join(with_article(f"{color} {kind}") for color, kind in zip(order, kinds, strict=True))
        for order in (colors, colors[::-1])
    )
    return right, wrong


def _swap_place(scene: Scene, draws: RandomStream) -> Captions | None:
    """Ask which of two things is on which side of the other."""
    pairs = [pair for pair in combinations(scene.things, 2) if _is_open(*pair)]
    if not pairs:
        return None
    one, two = draws.shuffled(draws.pick(pairs))
    side = draws.pick(_SIDES[relative_position(one, two)])
    names = [with_article(_kind(thing.kind, draws)) for thing in (one, two)]
    return f"{names[0]} {side} {names[1]}", f"{names[1]} {side} {names[0]}"


def _is_open(one: Thing, two: Thing) -> bool:
    """Return whether the kinds say nothing about the places: flying things are more often above the others."""
    return one.column != two.column or (one.kind in FLYING) == (two.kind in FLYING)


def _kind(kind: str, draws: RandomStream) -> str:
    return choose(KIND_WORDS[kind], _SYNONYMS, draws)


def _color(color: str, draws: RandomStream) -> str:
    return choose(COLOR_WORDS[color], _SYNONYMS, draws)
