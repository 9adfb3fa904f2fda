"""Synthetic captions: long captions in the style of a multi-modal model that re-captions web images.

They consist of a summary and of sentences about single things, relations, background and mood. Some sentences are
specific, some say nothing about the image, and a few describe what is not there. Sentences end in "." and contain no
other full stop, so that sentence splitting recovers them exactly.
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

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
_LOWEST, _HIGHEST = 4, 9


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
    """Write 4 to 9 sentences about the scene.

    Args:
        scene: the content of the image.
        hallucination: probability that one sentence describes a thing, a color or a texture that is not there.
        draws: source of randomness.
    """
    described = [thing for thing in (scene.main, *scene.others) if thing is scene.main or draws.chance(0.7)]
    body = [_thing_sentence(thing, draws) for thing in draws.shuffled(described)]
    if draws.chance(0.35):
        body.append(_relation_sentence(scene, draws))
    if draws.chance(0.5):
        body.insert(draws.below(len(body) + 1), draws.pick(BACKDROP_WORDS[scene.background].sentences))
    fillers = draws.shuffled(FILLERS)
    if draws.chance(0.5):
        body.append(fillers.pop())
    if draws.chance(0.12):
        body.insert(draws.below(len(body) + 1), fillers.pop())
    untrue = _hallucination(scene, draws) if draws.chance(hallucination) else None
    if untrue is not None:
        body.insert(draws.between(len(body) // 2, len(body)), untrue)
    # Usually the summary comes first, as re-captioners write; sometimes a detail comes before it.
    body.insert(0 if draws.chance(0.85) else draws.between(1, len(body)), _summary(scene, draws))
    while len(body) < _LOWEST:
        body.append(fillers.pop())
    while len(body) > _HIGHEST:
        body.remove(next(sentence for sentence in reversed(body) if sentence is not untrue))
    sentences = tuple(sentence[0].upper() + sentence[1:] for sentence in body)
    return SyntheticCaption(sentences, () if untrue is None else (body.index(untrue),))


def _name(thing: Thing, draws: RandomStream, *, size: float = 0.0, color: float = 0.0, texture: float = 0.0) -> str:
    return describe(thing, draws, size=size, color=color, texture=texture, other=0.15)


def _join_phrases(phrases: list[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _summary(scene: Scene, draws: RandomStream) -> str:
    main = with_article(_name(scene.main, draws, size=0.5, color=0.8, texture=0.4))
    others = [
        with_article(_name(thing, draws, color=0.3)) for thing in scene.others[: draws.pick_weighted(((1, 2), (2, 1)))]
    ]
    where = draws.pick(BACKDROP_WORDS[scene.background].where)
    everything, number = _join_phrases([main, *others]), _NUMBERS[len(scene.things)]
    return draws.pick(
        (
            f"the image shows {everything} {where}",
            f"the image features {main} {where}, along with {_join_phrases(others)}",
            f"this is a colorful illustration of {main} {where}",
            f"in this picture {main} stands out {where}",
            f"a playful scene with {everything} {where}",
            f"the illustration depicts {number} items {where}, including {everything}",
            f"there are {number} objects in this image, and the largest is {main}",
            f"{main} is the main subject of this image, shown {where}",
            f"a simple digital drawing presents {everything}",
        )
    )


def _thing_sentence(thing: Thing, draws: RandomStream) -> str:
    name, spot = _name(thing, draws), describe_place(thing, draws)
    color = choose(COLOR_WORDS[thing.color], 0.15, draws)
    size = choose(SIZE_WORDS[thing.size_name], 0.15, draws)
    full = with_article(_name(thing, draws, size=0.6, color=1.0, texture=0.75))
    forms = [
        f"{spot} there is {full}",
        f"{full} is {spot}",
        f"the {name} is {size} and {color}",
        f"the {color} {name} is placed {spot}",
        f"there is also {full} {spot}",
        f"one can see {full}",
        f"the {name} is {color}",
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


def _relation_sentence(scene: Scene, draws: RandomStream) -> str:
    one = scene.main
    other = draws.pick(scene.others)
    if draws.chance(0.5):
        one, other = other, one
    first, second = _name(one, draws, color=0.4), _name(other, draws, color=0.4)
    where = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}[
        relative_position(one, other)
    ]
    return draws.pick(
        (
            f"the {first} is {where} the {second}",
            f"{where} the {second} one finds the {first}",
            f"the {first} is located {where} the {second}",
        )
    )


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
    return _thing_sentence(replace(thing, color=color, texture=texture), draws)
