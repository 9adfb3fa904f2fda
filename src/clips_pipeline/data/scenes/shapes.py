"""Drawings of the things, on a 100 x 100 square (y points down).

A drawing is a list of parts, painted in order. The role of a part gives its color: the thing's own color, a darker or
lighter tone of it, or a fixed color such as glass. Coordinates are integers, so no pixel depends on how a machine
rounds sine or cosine.
"""

from dataclasses import dataclass

CUT, BODY, PATTERN, SHADE, LIGHT, DARK, WHITE, WOOD, LEAF, GLASS, FLAME, OUTLINE = range(12)
ROLES = 12
"""Number of roles. PATTERN (stripes, dots, checks on BODY) and OUTLINE are added by the rasterization."""


@dataclass(frozen=True)
class Polygon:
    """The inside of a closed outline (even-odd rule)."""

    role: int
    points: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Ellipse:
    """An axis-parallel ellipse; only the part above `floor` is painted."""

    role: int
    x: int
    y: int
    radius_x: int
    radius_y: int
    floor: int = 1000


Part = Polygon | Ellipse


def _box(role: int, left: int, top: int, right: int, bottom: int) -> Polygon:
    return Polygon(role, ((left, top), (right, top), (right, bottom), (left, bottom)))


def _shape(role: int, *points: tuple[int, int]) -> Polygon:
    return Polygon(role, points)


DRAWINGS: dict[str, tuple[Part, ...]] = {
    "apple": (
        Ellipse(BODY, 35, 62, 30, 34),
        Ellipse(BODY, 65, 62, 30, 34),
        _shape(WOOD, (46, 36), (53, 36), (58, 10), (51, 8)),
        _shape(LEAF, (55, 24), (66, 8), (88, 6), (78, 22)),
        Ellipse(WHITE, 24, 50, 6, 9),
    ),
    "ball": (
        Ellipse(BODY, 50, 50, 47, 47),
        Ellipse(SHADE, 50, 50, 19, 47),
        Ellipse(BODY, 50, 50, 10, 47),
        Ellipse(WHITE, 30, 27, 8, 7),
    ),
    "balloon": (
        _box(DARK, 48, 76, 52, 99),
        Ellipse(BODY, 50, 38, 34, 37),
        _shape(SHADE, (41, 83), (59, 83), (50, 70)),
        Ellipse(WHITE, 36, 22, 6, 9),
    ),
    "bird": (
        _box(FLAME, 44, 74, 48, 95),
        _box(FLAME, 58, 74, 62, 95),
        _box(FLAME, 36, 92, 48, 96),
        _box(FLAME, 50, 92, 62, 96),
        _shape(BODY, (70, 46), (99, 28), (96, 58), (76, 66)),
        Ellipse(BODY, 53, 57, 32, 22),
        Ellipse(BODY, 28, 34, 18, 17),
        _shape(FLAME, (13, 28), (0, 38), (14, 42)),
        Ellipse(SHADE, 62, 55, 19, 11),
        Ellipse(WHITE, 24, 30, 6, 6),
        Ellipse(DARK, 23, 30, 3, 3),
    ),
    "boat": (
        _box(WOOD, 47, 4, 52, 72),
        _shape(BODY, (55, 8), (55, 62), (94, 62)),
        _shape(BODY, (44, 18), (44, 62), (12, 62)),
        _shape(SHADE, (4, 68), (96, 68), (78, 95), (20, 95)),
        _shape(LIGHT, (4, 68), (96, 68), (93, 74), (8, 74)),
    ),
    "butterfly": (
        _shape(DARK, (48, 26), (34, 6), (38, 4), (52, 24)),
        _shape(DARK, (48, 24), (62, 4), (66, 6), (52, 26)),
        Ellipse(BODY, 26, 36, 25, 25),
        Ellipse(BODY, 74, 36, 25, 25),
        Ellipse(BODY, 32, 73, 19, 19),
        Ellipse(BODY, 68, 73, 19, 19),
        Ellipse(LIGHT, 24, 35, 9, 9),
        Ellipse(LIGHT, 76, 35, 9, 9),
        Ellipse(SHADE, 31, 74, 7, 7),
        Ellipse(SHADE, 69, 74, 7, 7),
        Ellipse(DARK, 50, 55, 6, 34),
    ),
    "car": (
        _shape(BODY, (20, 50), (32, 24), (68, 24), (82, 50)),
        _shape(BODY, (2, 52), (10, 47), (90, 47), (99, 56), (99, 76), (2, 76)),
        _shape(GLASS, (28, 47), (36, 30), (48, 30), (48, 47)),
        _shape(GLASS, (53, 47), (53, 30), (65, 30), (74, 47)),
        _box(SHADE, 2, 68, 99, 76),
        Ellipse(DARK, 25, 76, 15, 15),
        Ellipse(DARK, 75, 76, 15, 15),
        Ellipse(WHITE, 25, 76, 6, 6),
        Ellipse(WHITE, 75, 76, 6, 6),
    ),
    "cat": (
        _shape(BODY, (12, 56), (14, 4), (46, 28)),
        _shape(BODY, (88, 56), (86, 4), (54, 28)),
        _shape(LIGHT, (19, 38), (20, 14), (36, 26)),
        _shape(LIGHT, (81, 38), (80, 14), (64, 26)),
        Ellipse(BODY, 50, 58, 42, 37),
        Ellipse(WHITE, 33, 52, 10, 10),
        Ellipse(WHITE, 67, 52, 10, 10),
        Ellipse(DARK, 34, 53, 5, 8),
        Ellipse(DARK, 66, 53, 5, 8),
        Ellipse(WHITE, 50, 78, 18, 11),
        _shape(FLAME, (43, 68), (57, 68), (50, 76)),
        _box(DARK, 0, 70, 24, 73),
        _box(DARK, 76, 70, 100, 73),
        _box(DARK, 2, 79, 25, 82),
        _box(DARK, 75, 79, 98, 82),
    ),
    "chair": (
        _box(WOOD, 24, 40, 31, 60),
        _box(WOOD, 69, 40, 76, 60),
        _box(BODY, 20, 3, 80, 44),
        _box(WOOD, 14, 66, 22, 98),
        _box(WOOD, 78, 66, 86, 98),
        _box(WOOD, 32, 66, 38, 86),
        _box(WOOD, 62, 66, 68, 86),
        _shape(BODY, (20, 54), (80, 54), (90, 66), (10, 66)),
        _box(SHADE, 10, 66, 90, 72),
    ),
    "clock": (
        _shape(SHADE, (22, 84), (32, 90), (22, 99), (12, 99)),
        _shape(SHADE, (78, 84), (68, 90), (78, 99), (88, 99)),
        Ellipse(SHADE, 24, 15, 17, 12),
        Ellipse(SHADE, 76, 15, 17, 12),
        Ellipse(BODY, 50, 54, 44, 43),
        Ellipse(WHITE, 50, 54, 30, 29),
        _box(DARK, 47, 32, 53, 57),
        _box(DARK, 47, 51, 70, 57),
    ),
    "cup": (
        Ellipse(SHADE, 76, 52, 22, 24),
        Ellipse(CUT, 76, 52, 12, 14),
        _shape(BODY, (8, 22), (78, 22), (70, 94), (16, 94)),
        Ellipse(LIGHT, 43, 22, 35, 10),
        Ellipse(WOOD, 43, 23, 28, 6),
    ),
    "fish": (
        _shape(SHADE, (30, 34), (48, 10), (66, 34)),
        _shape(SHADE, (70, 50), (99, 20), (92, 50), (99, 82)),
        Ellipse(BODY, 42, 52, 40, 29),
        _shape(SHADE, (44, 54), (66, 46), (62, 68)),
        Ellipse(WHITE, 19, 44, 8, 8),
        Ellipse(DARK, 18, 44, 4, 4),
    ),
    "flower": (
        _box(LEAF, 47, 50, 53, 99),
        _shape(LEAF, (50, 90), (24, 70), (38, 68), (50, 80)),
        _shape(LEAF, (50, 84), (76, 64), (62, 62), (50, 74)),
        Ellipse(BODY, 50, 16, 16, 16),
        Ellipse(BODY, 72, 31, 16, 16),
        Ellipse(BODY, 64, 54, 16, 16),
        Ellipse(BODY, 36, 54, 16, 16),
        Ellipse(BODY, 28, 31, 16, 16),
        Ellipse(WOOD, 50, 37, 13, 13),
    ),
    "hat": (
        Ellipse(SHADE, 50, 82, 49, 13),
        _shape(BODY, (22, 18), (78, 18), (73, 82), (27, 82)),
        Ellipse(LIGHT, 50, 18, 28, 8),
        _shape(DARK, (26, 62), (74, 62), (73, 76), (27, 76)),
    ),
    "house": (
        _box(DARK, 68, 10, 80, 36),
        _box(BODY, 14, 44, 86, 97),
        _shape(SHADE, (2, 48), (50, 4), (98, 48)),
        _box(WOOD, 42, 66, 60, 97),
        _box(GLASS, 22, 56, 36, 72),
        _box(GLASS, 66, 56, 80, 72),
    ),
    "kite": (
        Ellipse(LIGHT, 56, 80, 5, 4),
        Ellipse(SHADE, 47, 87, 5, 4),
        Ellipse(LIGHT, 56, 94, 5, 4),
        _shape(BODY, (50, 2), (86, 34), (50, 78), (14, 34)),
        _shape(SHADE, (50, 2), (86, 34), (50, 34)),
        _shape(SHADE, (14, 34), (50, 34), (50, 78)),
        _box(DARK, 14, 33, 86, 35),
        _box(DARK, 49, 2, 51, 98),
    ),
    "lamp": (
        _box(WOOD, 45, 50, 55, 88),
        Ellipse(WOOD, 50, 92, 28, 7),
        _shape(BODY, (30, 4), (70, 4), (94, 54), (6, 54)),
        _shape(LIGHT, (9, 48), (91, 48), (94, 54), (6, 54)),
        _box(DARK, 74, 54, 76, 70),
    ),
    "mushroom": (
        _shape(WHITE, (36, 50), (64, 50), (70, 97), (30, 97)),
        Ellipse(SHADE, 50, 54, 48, 9),
        Ellipse(BODY, 50, 54, 48, 50, 54),
        Ellipse(WHITE, 34, 28, 9, 8),
        Ellipse(WHITE, 64, 24, 8, 7),
        Ellipse(WHITE, 52, 43, 7, 6),
        Ellipse(WHITE, 20, 46, 5, 5),
        Ellipse(WHITE, 80, 45, 6, 6),
    ),
    "rocket": (
        _shape(FLAME, (38, 82), (62, 82), (50, 100)),
        _shape(SHADE, (34, 50), (10, 86), (36, 80)),
        _shape(SHADE, (66, 50), (90, 86), (64, 80)),
        Ellipse(BODY, 50, 52, 22, 51, 84),
        _shape(SHADE, (34, 17), (50, 0), (66, 17), (50, 22)),
        Ellipse(WHITE, 50, 42, 12, 12),
        Ellipse(GLASS, 50, 42, 8, 8),
    ),
    "star": (
        _shape(BODY, (50, 2), (63, 35), (98, 37), (71, 59), (80, 94), (50, 75), (20, 94), (29, 59), (2, 37), (37, 35)),
    ),
    "tree": (
        _shape(WOOD, (43, 58), (57, 58), (62, 98), (38, 98)),
        Ellipse(BODY, 28, 48, 26, 22),
        Ellipse(BODY, 72, 48, 26, 22),
        Ellipse(BODY, 50, 30, 31, 28),
        Ellipse(BODY, 50, 54, 24, 18),
        Ellipse(SHADE, 62, 60, 14, 6),
        Ellipse(LIGHT, 40, 20, 10, 6),
    ),
    "umbrella": (
        _box(DARK, 48, 2, 52, 14),
        _box(WOOD, 47, 46, 53, 94),
        _box(WOOD, 34, 88, 53, 94),
        _box(WOOD, 34, 80, 40, 94),
        Ellipse(BODY, 50, 56, 49, 48, 56),
        Ellipse(SHADE, 50, 56, 18, 48, 56),
        Ellipse(CUT, 17, 58, 15, 8),
        Ellipse(CUT, 40, 58, 7, 6),
        Ellipse(CUT, 60, 58, 7, 6),
        Ellipse(CUT, 83, 58, 15, 8),
    ),
}

KINDS: tuple[str, ...] = tuple(sorted(DRAWINGS))
"""The 22 kinds of things in alphabetical order; the index of a kind is its zero-shot class."""
