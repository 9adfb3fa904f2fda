"""Web captions: a clean remark about one thing, or noise such as file names, shop texts, spam and wrong remarks."""

from dataclasses import dataclass, replace
from typing import Literal

from clips_pipeline.data.scenes.lexicon import BACKDROP_WORDS, FOREIGN, describe, with_article
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.scene import COLORS, Scene, Thing
from clips_pipeline.data.scenes.shapes import KINDS

Form = Literal["remark", "wrong", "vague", "shop", "spam", "file", "foreign"]

_NOISE: tuple[tuple[Form, int], ...] = (
    ("wrong", 4),
    ("vague", 4),
    ("shop", 4),
    ("spam", 3),
    ("file", 3),
    ("foreign", 2),
)

_VAGUE = (
    "my favorite picture of the year so far",
    "nice day out with the family",
    "throwback to last {month}, good times",
    "look what we found today",
    "best memories with friends and family",
    "photo of the day, what do you think",
    "a quick sketch I made last {month}",
    "just another day, more pictures soon",
    "this one always makes me smile",
    "new post on the blog, link in bio",
    "untitled work from {month} {year}",
    "thanks for all the likes and follows",
)
_SPAM = (
    "click here to win free gifts, best deals {year}",
    "free download hd wallpaper 1920x1080 4k background",
    "top {number} ideas you will love, number {digit} is great",
    "how to make money online fast and easy in {year}",
    "subscribe now and get {number}% off your first order",
    "best cheap hotels and flights to {town}, book today",
    "royalty free stock images, vectors and icons pack",
)
_MONTHS = ("january", "march", "may", "june", "august", "october", "december")
_TOWNS = ("london", "paris", "new york", "rome", "tokyo")
_PEOPLE = ("maria", "tom", "anna", "alex", "kim")


@dataclass(frozen=True)
class WebCaption:
    """A web caption and its form."""

    text: str
    form: Form


def web_caption(scene: Scene, noise: float, draws: RandomStream) -> WebCaption:
    """Write a short caption, never empty.

    Args:
        scene: the content of the image.
        noise: probability that the caption is not a true remark about one of the things.
        draws: source of randomness.
    """
    noisy = draws.chance(noise)
    form: Form = draws.pick_weighted(_NOISE) if noisy else "remark"
    thing = scene.main if draws.chance(0.7) else draws.pick(scene.others)
    tag = draws.pick(BACKDROP_WORDS[scene.background].web)
    if form == "remark":
        text = _remark(thing, tag, draws)
    elif form == "wrong":
        text = _remark(_wrong_thing(scene, thing, draws), tag, draws)
    elif form == "shop":
        text = _shop_text(thing, draws)
    elif form == "file":
        text = _file_name(thing, tag, draws)
    elif form == "foreign":
        text = _foreign_text(thing, draws)
    else:
        text = draws.pick(_VAGUE if form == "vague" else _SPAM).format(
            month=draws.pick(_MONTHS),
            year=draws.between(2009, 2024),
            number=5 * draws.between(1, 10),
            digit=draws.between(2, 9),
            town=draws.pick(_TOWNS),
        )
    if draws.chance(0.25):
        text = text[0].upper() + text[1:]
    return WebCaption(text, form)


def _name(thing: Thing, draws: RandomStream) -> str:
    return describe(thing, draws, size=0.15, color=0.7, texture=0.2, other=0.3)


def _remark(thing: Thing, tag: str, draws: RandomStream) -> str:
    name = _name(thing, draws)
    if draws.chance(0.3):
        return draws.pick(
            (
                f"{with_article(name)} in the {tag} picture I took",
                f"{name} and {tag} - stock illustration",
                f"{tag} with {with_article(name)}, free image",
                f"{name} icon with {tag} background",
            )
        )
    return draws.pick(
        (
            f"{with_article(name)}, drawn by {draws.pick(_PEOPLE)}",
            f"{name} - stock illustration",
            f"{name}, clip art collection",
            f"cute {name} drawing for kids",
            f"photo of {with_article(name)} by {draws.pick(_PEOPLE)}",
            f"{name} art print",
            f"my new {name}, what do you think?",
            f"the {name} we saw in {draws.pick(_TOWNS)}",
        )
    )


def _wrong_thing(scene: Scene, thing: Thing, draws: RandomStream) -> Thing:
    if draws.chance(0.6):
        present = {other.kind for other in scene.things}
        return replace(thing, kind=draws.pick([kind for kind in KINDS if kind not in present]))
    return replace(thing, color=draws.pick([color for color in COLORS if color != thing.color]))


def _shop_text(thing: Thing, draws: RandomStream) -> str:
    name, price = _name(thing, draws), f"${draws.between(3, 89)}.{draws.pick(('99', '49', '95', '00'))}"
    return draws.pick(
        (
            f"{name} {price} - free shipping - buy now",
            f"vintage {name} for sale, only {price} on our shop",
            f"sale! {name} gift idea {price} best price online",
            f"handmade {name} decor, size m, {price}",
            f"buy 2 get 1 free: {name} set from {price}",
        )
    )


def _file_name(thing: Thing, tag: str, draws: RandomStream) -> str:
    number, kind = draws.between(1000, 9999), thing.kind
    return draws.pick(
        (
            f"IMG_{number}.jpg",
            f"DSC0{number}.JPG uploaded by {draws.pick(_PEOPLE)}",
            f"Screenshot {draws.between(2012, 2024)}-0{draws.between(1, 9)}-{draws.between(10, 28)} at {number}.png",
            f"{kind}_{tag.replace(' ', '_')}_{number}.png",
            f"{kind}-final-v{draws.between(2, 9)} (1).png download",
            f"image {draws.between(2, 40)} of {draws.between(41, 90)} - album {draws.pick(_MONTHS)}",
        )
    )


def _foreign_text(thing: Thing, draws: RandomStream) -> str:
    spanish, french, german = FOREIGN[thing.kind]
    return draws.pick(
        (
            f"dibujo de {spanish} para niños gratis",
            f"foto de {spanish} en alta calidad",
            f"comprar {spanish} barato envio gratis",
            f"image de {french} pour les enfants",
            f"{french} pas cher, livraison gratuite en france",
            f"{german} günstig kaufen im online shop",
            f"bild {german} kostenlos für kinder malen",
        )
    )
