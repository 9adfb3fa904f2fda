"""Scenes: things with kind, color, size, texture and position in front of a background.

A scene is a plain value drawn from a seed. The image and all captions are made from it, so captions can be checked
against the image. Lengths are in 1/64 of the image's side, whatever its size in pixels.
"""

from dataclasses import dataclass

from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.shapes import KINDS

SIDE = 64
"""Side of the image in the units of this module."""
HALF = SIDE // 2

SMALL, MEDIUM, LARGE = 16, 22, 30
"""Sides of things. Three sizes, so that a picture shows which word is right."""

COLORS: tuple[str, ...] = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "white",
    "black",
    "gray",
)
TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted", "checked")
BACKGROUNDS: tuple[str, ...] = (
    "sky",
    "meadow",
    "night",
    "sea",
    "desert",
    "snow",
    "sunset",
    "room",
    "kitchen",
    "city",
)

FLYING = frozenset({"balloon", "bird", "butterfly", "kite", "rocket", "star"})
"""Kinds that are more often in the upper half."""

NUMBER_WEIGHTS = ((2, 3), (3, 4), (4, 3))
"""Numbers of things in a scene, with their weights."""


@dataclass(frozen=True)
class Thing:
    """One object of a scene; (x, y) is the center of its square, `size` the side of the square."""

    kind: str
    color: str
    texture: str
    size: int
    x: int
    y: int
    flipped: bool

    @property
    def size_name(self) -> str:
        """`small`, `medium` or `large`."""
        return {SMALL: "small", MEDIUM: "medium", LARGE: "large"}[self.size]

    @property
    def column(self) -> str:
        """Half of the image: `left` or `right`."""
        return "left" if self.x < HALF else "right"

    @property
    def row(self) -> str:
        """Half of the image: `top` or `bottom`."""
        return "top" if self.y < HALF else "bottom"


@dataclass(frozen=True)
class Scene:
    """A background and two to four things of different kinds, each in the center of a quarter; the last is the main thing."""

    background: str
    things: tuple[Thing, ...]

    @property
    def main(self) -> Thing:
        """The largest thing; its kind is the class of the image."""
        return self.things[-1]

    @property
    def others(self) -> tuple[Thing, ...]:
        """All things except the main one, in reading order: from the top left to the bottom right."""
        return tuple(sorted(self.things[:-1], key=lambda thing: (thing.y, thing.x)))


def relative_position(one: Thing, other: Thing) -> str:
    """Return the position of `one` relative to `other`: left or right in different columns, else above or below."""
    if one.column != other.column:
        return one.column
    return "above" if one.y < other.y else "below"


def draw_scene(draws: RandomStream) -> Scene:
    """Draw a random scene."""
    background = draws.pick(BACKGROUNDS)
    kinds = draws.shuffled(KINDS)[: draws.pick_weighted(NUMBER_WEIGHTS)]
    free = [(x, y) for y in (HALF // 2, SIDE - HALF // 2) for x in (HALF // 2, SIDE - HALF // 2)]
    things: list[Thing] = []
    for kind in kinds:
        quarter = draws.pick(_quarters(kind, free, draws))
        free.remove(quarter)
        size = draws.pick((SMALL, MEDIUM)) if things else LARGE
        things.append(
            Thing(
                kind,
                draws.pick(COLORS),
                draws.pick_weighted((("plain", 5), ("striped", 3), ("dotted", 2), ("checked", 2))),
                size,
                *quarter,
                draws.chance(0.5),
            )
        )
    return Scene(background, tuple(reversed(things)))


def _quarters(kind: str, free: list[tuple[int, int]], draws: RandomStream) -> list[tuple[int, int]]:
    """Return the centers that may be chosen: in half of the cases, flying things are above and other things below."""
    fitting = [(x, y) for x, y in free if (y < HALF) == (kind in FLYING)]
    return fitting if fitting and draws.chance(0.5) else free
