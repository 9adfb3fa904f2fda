"""Scenes: things with kind, color, size, texture and position in front of a background.

A scene is a plain value drawn from a seed. The image and all captions are made from it, so captions can be checked
against the image. Lengths are in 1/64 of the image's side, whatever its size in pixels.
"""

from dataclasses import dataclass

from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.shapes import KINDS

SIDE = 64
"""Side of the image in the units of this module."""

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

_FLYING = frozenset({"balloon", "bird", "butterfly", "kite", "rocket", "star"})


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
        return "small" if self.size <= 15 else "medium" if self.size <= 24 else "large"

    @property
    def column(self) -> str:
        """Third of the image: `left`, `center` or `right`."""
        return "left" if self.x < 22 else "center" if self.x < 42 else "right"

    @property
    def row(self) -> str:
        """Third of the image: `top`, `middle` or `bottom`."""
        return "top" if self.y < 22 else "middle" if self.y < 42 else "bottom"

    def overlap(self, other: "Thing") -> float:
        """Return the overlap of the two squares as a fraction of the area of the smaller one."""
        width = min(self.size, other.size, (self.size + other.size) // 2 - abs(self.x - other.x))
        height = min(self.size, other.size, (self.size + other.size) // 2 - abs(self.y - other.y))
        return max(0, width) * max(0, height) / min(self.size, other.size) ** 2


@dataclass(frozen=True)
class Scene:
    """A background and two to five things of different kinds, from back to front; the last is the main thing."""

    background: str
    things: tuple[Thing, ...]

    @property
    def main(self) -> Thing:
        """The largest thing, in front of all others; its kind is the class of the image."""
        return self.things[-1]

    @property
    def others(self) -> tuple[Thing, ...]:
        """All things except the main one, largest first."""
        return tuple(sorted(self.things[:-1], key=lambda thing: -thing.size))


def relative_position(one: Thing, other: Thing) -> str:
    """Return the position of `one` relative to `other`: left, right, above or below."""
    dx, dy = one.x - other.x, one.y - other.y
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def draw_scene(draws: RandomStream) -> Scene:
    """Draw a random scene. Things that find no free place are left out, so every thing is visible in the image."""
    background = draws.pick(BACKGROUNDS)
    count = draws.pick_weighted(((2, 3), (3, 4), (4, 3), (5, 2)))
    kinds = draws.shuffled(KINDS)[:count]
    if draws.chance(0.7):
        main_size, other_sizes = draws.between(27, 36 if count < 4 else 32), (12, 22)
    else:
        main_size, other_sizes = draws.between(20, 24), (11, 15)
    placed = [_thing(kinds[0], main_size, draws)]
    for kind in kinds[1:]:
        size = draws.between(*other_sizes)
        tries = (_thing(kind, size, draws) for _ in range(24))
        free = next((t for t in tries if all(t.overlap(p) <= 0.12 for p in placed)), None)
        if free is not None:
            placed.append(free)
        elif len(placed) == 1:
            placed.append(_corner_thing(kind, other_sizes[0], placed[0], draws))
    return Scene(background, tuple(reversed(placed)))


def _thing(kind: str, size: int, draws: RandomStream) -> Thing:
    reach = size // 2 + 1
    y = draws.between(reach, SIDE - reach)
    # Three quarters of the flying things are in the upper half, three quarters of the others in the lower half.
    if draws.chance(0.5):
        high, low = min(y, SIDE - y), max(y, SIDE - y)
        y = high if kind in _FLYING else low
    return Thing(
        kind,
        draws.pick(COLORS),
        draws.pick_weighted((("plain", 5), ("striped", 3), ("dotted", 2), ("checked", 2))),
        size,
        draws.between(reach, SIDE - reach),
        y,
        draws.chance(0.5),
    )


def _corner_thing(kind: str, size: int, main: Thing, draws: RandomStream) -> Thing:
    thing = _thing(kind, size, draws)
    reach = size // 2 + 1
    x = reach if main.x > SIDE // 2 else SIDE - reach
    y = reach if main.y > SIDE // 2 else SIDE - reach
    return Thing(kind, thing.color, thing.texture, size, x, y, thing.flipped)
