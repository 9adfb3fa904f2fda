"""Long captions in the manner of a multi-modal model that re-captions web pictures.

A summary, sentences about single things, relations, background, mood; some say much about the picture, some nothing,
and now and then one says what is not there. Sentences end in "." and hold no other full stop, so that sentence
splitting finds exactly them.
"""

from dataclasses import dataclass, replace

from clips_pipeline.data.scenes.lexicon import (
    BACKDROP_WORDS,
    COLOUR_WORDS,
    SIZE_WORDS,
    TEXTURE_NOUNS,
    article,
    choose,
    describe,
    place,
)
from clips_pipeline.data.scenes.random_integers import Draws
from clips_pipeline.data.scenes.scene import COLOURS, TEXTURES, Scene, Thing, relation
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
    """A caption by sentences, and which of them are hallucinated."""

    sentences: tuple[str, ...]
    """Each with its capital letter, without the full stop."""
    hallucinated: tuple[int, ...]
    """Indices of sentences that say something untrue."""

    @property
    def text(self) -> str:
        """The caption as the model reads it."""
        return " ".join(f"{sentence}." for sentence in self.sentences)


def synthetic_caption(scene: Scene, hallucination: float, draws: Draws) -> SyntheticCaption:
    """Write 4 to 9 sentences about the scene.

    Args:
        scene: what the picture shows.
        hallucination: probability that one sentence tells of a thing, a colour or a texture that is not there.
        draws: makes the choices.
    """
    told = [thing for thing in (scene.main, *scene.others) if thing is scene.main or draws.chance(0.7)]
    body = [_about(thing, draws) for thing in draws.shuffled(told)]
    if draws.chance(0.35):
        body.append(_relation(scene, draws))
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
    # Mostly the summary comes first, as re-captioners write; sometimes they start with a detail and sum up later.
    body.insert(0 if draws.chance(0.85) else draws.between(1, len(body)), _summary(scene, draws))
    while len(body) < _LOWEST:
        body.append(fillers.pop())
    while len(body) > _HIGHEST:
        body.remove(next(sentence for sentence in reversed(body) if sentence is not untrue))
    sentences = tuple(sentence[0].upper() + sentence[1:] for sentence in body)
    return SyntheticCaption(sentences, () if untrue is None else (body.index(untrue),))


def _name(thing: Thing, draws: Draws, *, size: float = 0.0, colour: float = 0.0, texture: float = 0.0) -> str:
    return describe(thing, draws, size=size, colour=colour, texture=texture, other=0.15)


def _listed(phrases: list[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _summary(scene: Scene, draws: Draws) -> str:
    main = article(_name(scene.main, draws, size=0.5, colour=0.8, texture=0.4))
    others = [article(_name(thing, draws, colour=0.3)) for thing in scene.others[: draws.weighted(((1, 2), (2, 1)))]]
    where = draws.pick(BACKDROP_WORDS[scene.background].where)
    everything, number = _listed([main, *others]), _NUMBERS[len(scene.things)]
    return draws.pick(
        (
            f"the image shows {everything} {where}",
            f"the image features {main} {where}, along with {_listed(others)}",
            f"this is a colorful illustration of {main} {where}",
            f"in this picture {main} stands out {where}",
            f"a playful scene with {everything} {where}",
            f"the illustration depicts {number} items {where}, including {everything}",
            f"there are {number} objects in this image, and the largest is {main}",
            f"{main} is the main subject of this image, shown {where}",
            f"a simple digital drawing presents {everything}",
        )
    )


def _about(thing: Thing, draws: Draws) -> str:
    name, spot = _name(thing, draws), place(thing, draws)
    colour = choose(COLOUR_WORDS[thing.colour], 0.15, draws)
    size = choose(SIZE_WORDS[thing.size_name], 0.15, draws)
    full = article(_name(thing, draws, size=0.6, colour=1.0, texture=0.75))
    forms = [
        f"{spot} there is {full}",
        f"{full} is {spot}",
        f"the {name} is {size} and {colour}",
        f"the {colour} {name} is placed {spot}",
        f"there is also {full} {spot}",
        f"one can see {full}",
        f"the {name} is {colour}",
        f"the {name} has {article(colour)} color",
    ]
    if thing.texture == "plain":
        forms += [f"the {name} is painted in a plain {colour} tone", f"the {name} has a smooth {colour} surface"]
    else:
        pattern = draws.pick(TEXTURE_NOUNS[thing.texture])
        forms += [
            f"the {colour} {name} is decorated with {pattern}",
            f"the {name} {spot} is {colour} with {pattern}",
            f"{pattern} cover the {colour} {name}"
            if pattern[:2] != "a "
            else f"{pattern} covers the surface of the {colour} {name}",
        ]
    return draws.pick(forms)


def _relation(scene: Scene, draws: Draws) -> str:
    one = scene.main
    other = draws.pick(scene.others)
    if draws.chance(0.5):
        one, other = other, one
    first, second = _name(one, draws, colour=0.4), _name(other, draws, colour=0.4)
    where = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}[
        relation(one, other)
    ]
    return draws.pick(
        (
            f"the {first} is {where} the {second}",
            f"{where} the {second} one finds the {first}",
            f"the {first} is located {where} the {second}",
        )
    )


def _hallucination(scene: Scene, draws: Draws) -> str:
    present = {thing.kind for thing in scene.things}
    if draws.chance(0.6):
        kind = draws.pick([kind for kind in KINDS if kind not in present])
        invented = replace(scene.others[0], kind=kind, colour=draws.pick(COLOURS), texture="plain")
        full = article(_name(invented, draws, size=0.4, colour=0.7))
        return draws.pick(
            (
                f"{full} is partly visible in the background",
                f"there seems to be {full} {place(invented, draws)}",
                f"in the distance one can also make out {full}",
            )
        )
    thing = draws.pick(scene.things)
    colour = draws.pick([colour for colour in COLOURS if colour != thing.colour])
    texture = draws.pick([texture for texture in TEXTURES if texture != thing.texture])
    return _about(replace(thing, colour=colour, texture=texture), draws)
