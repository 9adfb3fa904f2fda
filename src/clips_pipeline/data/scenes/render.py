"""Rendering of a scene to pixels, in integer arithmetic: the same bits on every machine.

Shape legend: S = pixels per side of the image, C = 3 color channels, P = pixels per side of a sprite, R = roles.
"""

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clips_pipeline.data.scenes.backdrops import RGB, blend, paint_backdrop
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.raster import FULL_COVERAGE, ellipse_counts, sprite_counts
from clips_pipeline.data.scenes.scene import SIDE, Scene, Thing
from clips_pipeline.data.scenes.shapes import (
    BODY,
    CUT,
    DARK,
    FLAME,
    GLASS,
    LEAF,
    LIGHT,
    OUTLINE,
    PATTERN,
    ROLES,
    SHADE,
    WHITE,
    WOOD,
)

PAINT: dict[str, tuple[RGB, RGB]] = {
    "red": ((214, 40, 40), (255, 214, 206)),
    "orange": ((242, 130, 28), (255, 234, 204)),
    "yellow": ((250, 214, 50), (190, 120, 20)),
    "green": ((58, 160, 64), (214, 244, 200)),
    "blue": ((40, 92, 212), (206, 226, 255)),
    "purple": ((130, 60, 180), (232, 210, 250)),
    "pink": ((246, 130, 186), (255, 232, 244)),
    "brown": ((130, 82, 44), (232, 206, 172)),
    "white": ((248, 248, 248), (150, 158, 176)),
    "black": ((42, 42, 48), (176, 176, 184)),
    "gray": ((140, 144, 150), (222, 224, 228)),
}
"""By color name: the color of a thing, and of its stripes, dots or checks."""

_FIXED: dict[int, RGB] = {
    DARK: (44, 40, 46),
    WHITE: (252, 252, 250),
    WOOD: (122, 84, 54),
    LEAF: (70, 142, 62),
    GLASS: (172, 218, 240),
    FLAME: (250, 152, 44),
}
_GROUNDED = frozenset(
    {"apple", "ball", "car", "cat", "chair", "clock", "cup", "hat", "house", "lamp", "mushroom", "tree"}
)


def render(scene: Scene, image_size: int, draws: RandomStream) -> NDArray[np.uint8]:
    """Render a scene.

    Args:
        scene: the scene.
        image_size: S, pixels per side.
        draws: source of randomness for what captions never mention: clouds, tints, the horizon.

    Returns:
        (S, S, C) RGB values.
    """
    canvas = paint_backdrop(scene.background, image_size, draws)
    for thing in scene.things:
        _paint(canvas, thing, image_size, draws)
    return canvas.astype(np.uint8)


def encode_png(pixels_SSC: NDArray[np.uint8]) -> bytes:
    """Encode as lossless PNG. The pixels are reproducible; the bytes may differ between zlib versions."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_SSC).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _paint(canvas_SSC: NDArray[np.int32], thing: Thing, image_size: int, draws: RandomStream) -> None:
    tint = draws.between(-14, 14)
    pixels = max(1, thing.size * image_size // SIDE)
    # The sprite has a border of one pixel for its outline.
    left = (2 * thing.x - thing.size) * image_size // (2 * SIDE) - 1
    top = (2 * thing.y - thing.size) * image_size // (2 * SIDE) - 1
    if thing.kind in _GROUNDED:
        shadow = ellipse_counts(max(2, 2 * pixels), max(2, pixels // 3))
        height, width = shadow.shape
        blend(canvas_SSC, shadow, (30, 30, 40), left + 1 + (pixels - width) // 2, top + pixels - height // 2, 3)
    counts = sprite_counts(thing.kind, pixels, thing.texture, thing.flipped).astype(np.int32)
    side = counts.shape[0]
    palette_RC = _palette(thing.color, tint)
    paint = (counts.reshape(-1, ROLES) @ palette_RC).reshape(side, side, 3)
    y0, x0, y1, x1 = max(0, top), max(0, left), min(image_size, top + side), min(image_size, left + side)
    window = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    under = canvas_SSC[y0:y1, x0:x1]
    under[:] = (under * counts[window][:, :, CUT, None] + paint[window] + FULL_COVERAGE // 2) // FULL_COVERAGE


@lru_cache(maxsize=512)
def _palette(color: str, tint: int) -> NDArray[np.int32]:
    body, pattern = PAINT[color]
    palette = np.zeros((ROLES, 3), dtype=np.int32)
    for role, rgb in _FIXED.items():
        palette[role] = rgb
    palette[BODY] = [value + tint for value in body]
    palette[PATTERN] = pattern
    palette[SHADE] = [(value + tint) * 3 // 4 for value in body]
    palette[LIGHT] = [value + (255 - value) * 2 // 5 for value in body]
    # A dark outline separates a thing from its background; a black thing needs a light one.
    palette[OUTLINE] = (196, 196, 202) if color == "black" else [value // 4 for value in body]
    if color == "white":
        palette[OUTLINE] = (96, 98, 110)
    if color == "black":
        palette[SHADE] = (78, 78, 88)
    np.clip(palette, 0, 255, out=palette)
    palette.flags.writeable = False
    return palette
