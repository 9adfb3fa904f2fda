"""Synthetic captions: long captions in the style of a multi-modal model that re-captions web images.

They consist of a summary and of sentences about things, the main one first, and about the background and the mood.
Most captions keep to one pattern: the summary lists every thing with its color, then sentences tell where each one is.
The others vary in form. Some sentences say nothing about the image, and a few describe what is not there.
Sentences end in "." and contain no other full stop, so that sentence splitting recovers them exactly.
"""

from dataclasses import dataclass, replace

from clips_pipeline.data.scenes.lexicon import (
    BACKDROP_WORDS,
    COLOR_WORDS,
    SIZE_WORDS,
    TEXTURE_NOUNS,
    choose,
    describe,
    describe_place,
    with_article,
)
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.scene import COLORS, TEXTURES, Scene, Thing, relative_position
from clips_pipeline.data.scenes.shapes import KINDS

FILLERS: tuple[str, ...] = (
    "The overall mood is calm and cheerful",
    "The image has a simple and playful style",
    "The colors are clear and easy to tell apart",
    "The scene is well lit and free of clutter",
    "There are no people or text in the image",
    "The composition feels balanced and pleasant",
    "The style suggests an illustration for children",
    "Every item has a neat outline",
    "It looks tidy and bright",
    "The result is pleasant to look at",
    "The picture creates a sense of wonder and joy",
    "The lighting is even and soft",
    "It is a charming image with a friendly feeling",
    "The items seem to be arranged with care",
    "The image invites the viewer to imagine a story",
    "The contrast between the items adds interest",
)

NUMBERS = {2: "two", 3: "three", 4: "four"}
"""Words for the number of things in a scene."""

_SIDES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
_FEWEST_SENTENCES = 3
_IN_PATTERN = 0.7


@dataclass(frozen=True)
class SyntheticCaption:
    """A caption as sentences, and which of them are hallucinated."""

    sentences: tuple[str, ...]
    """Sentences with a capital letter, without the full stop."""
    hallucinated: tuple[int, ...]
    """Indices of untrue sentences."""

    @property
    def text(self) -> str:
        """The caption as one text."""
        return " ".join(f"{sentence}." for sentence in self.sentences)


def synthetic_caption(scene: Scene, hallucination: float, draws: RandomStream) -> SyntheticCaption:
    """Write 3 to 9 sentences about the scene.

    Args:
        scene: the content of the image.
        hallucination: probability that one sentence describes a thing, a color or a texture that is not there.
        draws: source of randomness.
    """
    # Most captions of one model follow one pattern. A captioner that predicts all words at once can only learn
    # captions whose words have their places.
    in_pattern = draws.chance(_IN_PATTERN)
    body = _places_in_pattern(scene, draws) if in_pattern else _free_sentences(scene, draws)
    if draws.chance(0.4):
        body.append(draws.pick(BACKDROP_WORDS[scene.background].sentences))
    fillers = draws.shuffled(FILLERS)
    if draws.chance(0.4):
        body.append(fillers.pop())
    untrue = _hallucination(scene, draws) if draws.chance(hallucination) else None
    if untrue is not None:
        body.insert(draws.between(len(body) // 2, len(body)), untrue)
    if in_pattern:
        body.insert(0, _summary_in_pattern(scene, draws))
    else:  # here a detail may come before the summary
        body.insert(0 if draws.chance(0.6) else draws.between(1, len(body)), _free_summary(scene, draws))
    while len(body) < _FEWEST_SENTENCES:
        body.append(fillers.pop())
    sentences = tuple(sentence[0].upper() + sentence[1:] for sentence in body)
    return SyntheticCaption(sentences, () if untrue is None else (body.index(untrue),))


def _places_in_pattern(scene: Scene, draws: RandomStream) -> list[str]:
    """Write where each thing is; some captions end before the last one."""
    sentences = [_place_in_pattern(scene, scene.main, draws)]
    for thing in scene.others:
        if not draws.chance(0.75):
            break
        sentences.append(_place_in_pattern(scene, thing, draws))
    if draws.chance(0.6):
        sentences.append(_lone_sentence(draws.pick(scene.things), draws))
    return sentences


def _free_sentences(scene: Scene, draws: RandomStream) -> list[str]:
    """Write about the main thing and some of the others in many forms."""
    described = [thing for thing in (scene.main, *scene.others) if thing is scene.main or draws.chance(0.7)]
    return [_thing_sentence(scene, thing, draws) for thing in described]


def _name(thing: Thing, draws: RandomStream, *, size: float = 0.0, color: float = 0.0, texture: float = 0.0) -> str:
    return describe(thing, draws, size=size, color=color, texture=texture, other=0.15)


def _join_phrases(phrases: list[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _colored(thing: Thing, draws: RandomStream) -> str:
    return describe(thing, draws, size=0.0, color=1.0, texture=0.0, other=0.05)


def _summary_in_pattern(scene: Scene, draws: RandomStream) -> str:
    size = choose(SIZE_WORDS[scene.main.size_name], 0.05, draws)
    phrases = [f"{size} {_colored(scene.main, draws)}", *(_colored(thing, draws) for thing in scene.others)]
    verb = "shows" if draws.chance(0.75) else "features"
    return f"the image {verb} {_join_phrases([with_article(phrase) for phrase in phrases])}"


def _place_in_pattern(scene: Scene, thing: Thing, draws: RandomStream) -> str:
    other = scene.others[0] if thing is scene.main else scene.main
    side, second = _SIDES[relative_position(thing, other)], with_article(_colored(other, draws))
    return f"the {_colored(thing, draws)} is at the {thing.row} {thing.column}, {side} {second}"


def _free_summary(scene: Scene, draws: RandomStream) -> str:
    main = with_article(_name(scene.main, draws, size=0.5, color=0.8, texture=0.4))
    others = _join_phrases([with_article(_name(thing, draws, color=0.6, texture=0.2)) for thing in scene.others])
    place = draws.pick(BACKDROP_WORDS[scene.background].where)
    where = f" {place}" if draws.chance(0.5) else ""
    number = NUMBERS[len(scene.things)]
    everything = f"{main} and {others}" if len(scene.others) == 1 else f"{main}, {others}"
    return draws.pick(
        (
            f"the image shows {everything}{where}",
            f"the image features {main}{where}, along with {others}",
            f"a playful scene with {everything}{where}",
            f"the illustration depicts {number} items{where}, including {everything}",
            f"{main} is the main subject of this image{where}, next to {others}",
            f"a simple digital drawing presents {everything}{where}",
            f"in this picture {main} stands out{where}, and there is also {others}",
        )
    )


def _thing_sentence(scene: Scene, thing: Thing, draws: RandomStream) -> str:
    """Write about a thing and, in three of four cases, its position relative to another one."""
    if draws.chance(0.25):
        return _lone_sentence(thing, draws)
    other = draws.pick([other for other in scene.things if other is not thing])
    full = with_article(_name(thing, draws, size=0.6, color=1.0, texture=0.75))
    second = with_article(_name(other, draws, color=0.7, texture=0.3))
    name, spot, side = _name(thing, draws), describe_place(thing, draws), _SIDES[relative_position(thing, other)]
    color = choose(COLOR_WORDS[thing.color], 0.15, draws)
    return draws.pick(
        (
            f"{spot} there is {full}, {side} {second}",
            f"{full} is {spot}, and {second} is {describe_place(other, draws)}",
            f"the {color} {name} {spot} is {side} {second}",
            f"one can see {full} {side} {second}",
            f"next to {second} there is {full} {spot}",
            f"{full} and {second} can be seen, the {name} {spot}",
        )
    )


def _lone_sentence(thing: Thing, draws: RandomStream) -> str:
    name, spot = _name(thing, draws), describe_place(thing, draws)
    color = choose(COLOR_WORDS[thing.color], 0.15, draws)
    size = choose(SIZE_WORDS[thing.size_name], 0.15, draws)
    full = with_article(_name(thing, draws, size=0.6, color=1.0, texture=0.75))
    forms = [
        f"{spot} there is {full}",
        f"the {name} is {size} and {color}",
        f"the {color} {name} is placed {spot}",
        f"there is also {full} {spot}",
        f"the {name} has {with_article(color)} color",
    ]
    if thing.texture == "plain":
        forms += [f"the {name} is painted in a plain {color} tone", f"the {name} has a smooth {color} surface"]
    else:
        pattern = draws.pick(TEXTURE_NOUNS[thing.texture])
        forms += [
            f"the {color} {name} is decorated with {pattern}",
            f"the {name} {spot} is {color} with {pattern}",
            f"{pattern} cover the {color} {name}"
            if pattern[:2] != "a "
            else f"{pattern} covers the surface of the {color} {name}",
        ]
    return draws.pick(forms)


def _hallucination(scene: Scene, draws: RandomStream) -> str:
    present = {thing.kind for thing in scene.things}
    if draws.chance(0.6):
        kind = draws.pick([kind for kind in KINDS if kind not in present])
        invented = replace(scene.others[0], kind=kind, color=draws.pick(COLORS), texture="plain")
        full = with_article(_name(invented, draws, size=0.4, color=0.7))
        return draws.pick(
            (
                f"{full} is partly visible in the background",
                f"there seems to be {full} {describe_place(invented, draws)}",
                f"in the distance one can also make out {full}",
            )
        )
    thing = draws.pick(scene.things)
    color = draws.pick([color for color in COLORS if color != thing.color])
    texture = draws.pick([texture for texture in TEXTURES if texture != thing.texture])
    return _lone_sentence(replace(thing, color=color, texture=texture), draws)
