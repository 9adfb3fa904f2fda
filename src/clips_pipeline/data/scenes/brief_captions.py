"""Captions of a second captioner, of another style: two or three short sentences, and errors twice as often.

It names the main thing and one or two others, and neither mood nor relations. As in `synthetic_captions`, sentences end in
"." and contain no other full stop.
"""

from dataclasses import replace

from clips_pipeline.data.scenes.lexicon import (
    BACKDROP_WORDS,
    COLOR_WORDS,
    choose,
    describe,
    describe_place,
    with_article,
)
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.scene import COLORS, Scene, Thing
from clips_pipeline.data.scenes.synthetic_captions import SyntheticCaption


def brief_caption(scene: Scene, hallucination: float, draws: RandomStream) -> SyntheticCaption:
    """Write two or three sentences about the scene.

    Args:
        scene: the content of the image.
        hallucination: error rate of the first captioner; the probability that this one gives a thing a wrong color is twice
            as high.
        draws: source of randomness.
    """
    others = draws.shuffled(scene.others)[: draws.pick_weighted(((1, 2), (2, 1)))]
    where = draws.pick(BACKDROP_WORDS[scene.background].where)
    main = with_article(describe(scene.main, draws, size=0.4, color=0.9, texture=0.2, other=0.1))
    body = [draws.pick((f"{main} {where}", f"we see {main} {where}", f"picture of {main} {where}"))]
    body += [_short_sentence(thing, draws) for thing in others]
    wrong = draws.below(len(body)) if draws.chance(min(1.0, 2 * hallucination)) else None
    if wrong is not None:
        thing = scene.main if wrong == 0 else others[wrong - 1]
        color = draws.pick([color for color in COLORS if color != thing.color])
        body[wrong] = _short_sentence(replace(thing, color=color), draws)
    if len(body) < 2:
        body.append(_short_sentence(scene.main, draws))
    sentences = tuple(sentence[0].upper() + sentence[1:] for sentence in body)
    return SyntheticCaption(sentences, () if wrong is None else (wrong,))


def _short_sentence(thing: Thing, draws: RandomStream) -> str:
    name = describe(thing, draws, size=0.0, color=0.0, texture=0.0, other=0.1)
    color = choose(COLOR_WORDS[thing.color], 0.1, draws)
    return draws.pick(
        (
            f"{with_article(color)} {name} {describe_place(thing, draws)}",
            f"the {name} is {color}",
            f"{with_article(color)} {name} too",
        )
    )
