"""Human-style captions: five short captions with plain words and synonyms, each about one or two things."""

from clips_pipeline.data.scenes.lexicon import BACKDROP_WORDS, describe, with_article
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.scene import Scene, Thing, relative_position

CAPTIONS = 5

_SIDES = {
    "left": ("to the left of", "beside", "next to"),
    "right": ("to the right of", "beside", "next to"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath"),
}


def human_captions(scene: Scene, draws: RandomStream) -> tuple[str, ...]:
    """Return five different captions of about 11 words, from 3 to 22."""
    captions: list[str] = []
    while len(captions) < CAPTIONS:
        caption = _caption(scene, draws)
        if caption not in captions:
            captions.append(caption)
    return tuple(captions)


def _name(thing: Thing, draws: RandomStream) -> str:
    size = 0.15 if thing.size_name == "medium" else 0.45
    return with_article(describe(thing, draws, size=size, color=0.65, texture=0.4, other=0.4))


def _caption(scene: Scene, draws: RandomStream) -> str:
    where = draws.pick(BACKDROP_WORDS[scene.background].human)
    # Most captions are about the main thing.
    one = scene.main if draws.chance(0.8) else draws.pick(scene.others)
    two = draws.pick([thing for thing in scene.things if thing is not one])
    first, second = _name(one, draws), _name(two, draws)
    side = draws.pick(_SIDES[relative_position(one, two)])
    rest = [thing for thing in scene.things if thing not in (one, two)]
    forms = [
        (f"{first} {side} {second}", 4),
        (f"{first} {side} {second} {where}", 3),
        (f"{first} {where}", 4),
        (f"there is {first} and {second} {where}", 2),
        (f"{first} with {second}", 2),
        (f"we see {first} {where} near {second}", 2),
        (f"cartoon of {first} and {second}", 1),
        (f"somebody drew {first} {where}", 1),
    ]
    if rest:
        third = _name(draws.pick(rest), draws)
        forms += [(f"{first}, {second} and {third} {where}", 3), (f"{first} with {second} and {third}", 2)]
    caption = draws.pick_weighted(forms)
    if draws.chance(0.6):
        caption = caption[0].upper() + caption[1:]
    return caption + "." if draws.chance(0.5) else caption
