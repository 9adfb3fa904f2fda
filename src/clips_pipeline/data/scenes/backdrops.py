"""Backgrounds of scenes: ten kinds, each with its own horizon, tints and small decorations.

Integer arithmetic only. Shape legend: S = pixels per side of the image, C = 3 color channels.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.raster import FULL_COVERAGE, ellipse_counts

RGB = tuple[int, int, int]
Canvas = NDArray[np.int32]


def paint_backdrop(name: str, image_size: int, draws: RandomStream) -> Canvas:
    """Return an (S, S, C) canvas of values in [0, 255] with the named background."""
    canvas = np.empty((image_size, image_size, 3), dtype=np.int32)
    _PAINTERS[name](canvas, draws)
    return canvas


def blend(canvas_SSC: Canvas, counts: NDArray[np.uint8], rgb: RGB, left: int, top: int, tenths: int = 10) -> None:
    """Blend `rgb` into the canvas where `counts` covers it, at `tenths` of full strength; clip at the edges."""
    size = canvas_SSC.shape[0]
    height, width = counts.shape
    y0, x0, y1, x1 = max(0, top), max(0, left), min(size, top + height), min(size, left + width)
    if y0 >= y1 or x0 >= x1:
        return
    weight = counts[y0 - top : y1 - top, x0 - left : x1 - left, None].astype(np.int32) * tenths
    under = canvas_SSC[y0:y1, x0:x1]
    whole = FULL_COVERAGE * 10
    under[:] = (under * (whole - weight) + np.array(rgb, dtype=np.int32) * weight + whole // 2) // whole


def _gradient(canvas: Canvas, top: int, bottom: int, above: RGB, below: RGB, tint: int = 0) -> None:
    rows = bottom - top
    if rows <= 0:
        return
    step = np.arange(rows, dtype=np.int32)[:, None]
    last = max(1, rows - 1)
    column = (np.array(above, dtype=np.int32) * (last - step) + np.array(below, dtype=np.int32) * step) // last
    canvas[top:bottom] = np.minimum(np.maximum(column + tint, 0), 255)[:, None, :]


def _at(canvas: Canvas, sixty_fourths: int) -> int:
    return sixty_fourths * int(canvas.shape[0]) // 64


def _oval(canvas: Canvas, x: int, y: int, rx4: int, ry4: int, rgb: RGB, tenths: int = 10) -> None:
    """Paint an ellipse centered at (x, y), in 1/64 of the side; its radii are in quarters of that unit."""
    size = canvas.shape[0]
    counts = ellipse_counts(max(1, rx4 * size // 64), max(1, ry4 * size // 64))
    blend(canvas, counts, rgb, _at(canvas, x) - counts.shape[1] // 2, _at(canvas, y) - counts.shape[0] // 2, tenths)


def _clouds(canvas: Canvas, draws: RandomStream, lowest: int, count: int, rgb: RGB = (252, 252, 254)) -> None:
    for _ in range(count):
        x, y = draws.between(4, 60), draws.between(4, lowest)
        _oval(canvas, x, y, 36, 10, rgb, 8)
        _oval(canvas, x - draws.between(1, 4), y - 2, 16, 12, rgb, 8)
        _oval(canvas, x + draws.between(2, 5), y - 2, 14, 10, rgb, 8)


def _sky(canvas: Canvas, draws: RandomStream) -> None:
    size = canvas.shape[0]
    _gradient(canvas, 0, size, (88, 160, 232), (190, 224, 250), draws.between(-16, 10))
    _clouds(canvas, draws, 58, draws.between(3, 5))


def _meadow(canvas: Canvas, draws: RandomStream) -> None:
    size, horizon = canvas.shape[0], _at(canvas, draws.between(24, 34))
    _gradient(canvas, 0, horizon, (150, 206, 244), (222, 240, 250), draws.between(-14, 6))
    _clouds(canvas, draws, 14, draws.between(0, 2))
    _gradient(canvas, horizon, size, (142, 200, 96), (96, 164, 66), draws.between(-14, 10))
    for _ in range(14):
        _oval(canvas, draws.between(0, 63), draws.between(38, 63), 2, 5, (70, 130, 52), 8)


def _night(canvas: Canvas, draws: RandomStream) -> None:
    size = canvas.shape[0]
    _gradient(canvas, 0, size, (14, 18, 56), (52, 56, 110), draws.between(-6, 10))
    for _ in range(18):
        _oval(canvas, draws.between(1, 62), draws.between(1, 62), 2, 2, (250, 250, 220), draws.between(5, 10))
    x, y = draws.between(8, 56), draws.between(7, 16)
    _oval(canvas, x, y, 18, 18, (250, 244, 200))
    _oval(canvas, x + 2, y - 1, 14, 14, (24, 28, 70))


def _sea(canvas: Canvas, draws: RandomStream) -> None:
    size, horizon = canvas.shape[0], _at(canvas, draws.between(18, 28))
    _gradient(canvas, 0, horizon, (188, 224, 246), (236, 246, 250), draws.between(-14, 4))
    _gradient(canvas, horizon, size, (40, 142, 176), (14, 84, 136), draws.between(-10, 14))
    for _ in range(12):
        _oval(canvas, draws.between(0, 63), draws.between(30, 62), draws.between(12, 22), 2, (186, 226, 240), 7)


def _desert(canvas: Canvas, draws: RandomStream) -> None:
    size, horizon = canvas.shape[0], _at(canvas, draws.between(22, 30))
    tint = draws.between(-14, 8)
    _gradient(canvas, 0, size, (250, 226, 168), (252, 240, 206), tint)
    _oval(canvas, draws.between(6, 58), draws.between(5, 12), 18, 18, (255, 250, 214))
    _gradient(canvas, horizon, size, (232, 190, 116), (206, 156, 84), tint)
    for _ in range(4):
        _oval(canvas, draws.between(0, 63), draws.between(34, 62), draws.between(40, 80), 5, (240, 208, 142), 7)


def _snow(canvas: Canvas, draws: RandomStream) -> None:
    size, horizon = canvas.shape[0], _at(canvas, draws.between(24, 36))
    _gradient(canvas, 0, horizon, (160, 178, 200), (206, 216, 228), draws.between(-12, 10))
    _gradient(canvas, horizon, size, (236, 242, 250), (216, 226, 242), draws.between(-8, 5))
    for _ in range(26):
        _oval(canvas, draws.between(0, 63), draws.between(0, 63), 3, 3, (255, 255, 255), 9)


def _sunset(canvas: Canvas, draws: RandomStream) -> None:
    size = canvas.shape[0]
    middle = _at(canvas, draws.between(34, 42))
    tint = draws.between(-12, 10)
    _gradient(canvas, 0, middle, (104, 62, 130), (246, 150, 92), tint)
    _oval(canvas, draws.between(10, 54), draws.between(30, 36), 30, 30, (255, 224, 130))
    _gradient(canvas, middle, size, (120, 60, 84), (60, 34, 66), tint)


def _room(canvas: Canvas, draws: RandomStream) -> None:
    size, floor = canvas.shape[0], _at(canvas, draws.between(40, 48))
    wall = draws.pick(((240, 226, 200), (206, 222, 214), (226, 212, 226)))
    tint = draws.between(-10, 8)
    _gradient(canvas, 0, floor, wall, wall, tint)
    band = max(2, size // 16)
    canvas[:floor, (np.arange(size) // band) % 2 == 0] -= 12
    _gradient(canvas, floor, size, (178, 124, 78), (150, 100, 60), tint)
    for plank in range(floor, size, max(2, size // 12)):
        canvas[plank] = (112, 74, 46)
    canvas[max(0, floor - max(1, size // 48)) : floor] = (250, 246, 238)


def _kitchen(canvas: Canvas, draws: RandomStream) -> None:
    size, counter = canvas.shape[0], _at(canvas, draws.between(42, 50))
    tile = draws.pick(((214, 236, 238), (236, 232, 220), (218, 232, 214)))
    _gradient(canvas, 0, counter, tile, tile, draws.between(-12, 8))
    step = max(3, size // 8)
    canvas[0:counter:step] = (168, 182, 186)
    canvas[:counter, draws.below(step) :: step] = (168, 182, 186)
    steps = np.arange(size) // step
    squares = (steps[counter:, None] + steps[None, :]) % 2
    dark, light = np.array((120, 132, 142), dtype=np.int32), np.array((226, 228, 230), dtype=np.int32)
    canvas[counter:] = np.where(squares[:, :, None] == 0, dark, light)


def _city(canvas: Canvas, draws: RandomStream) -> None:
    size, street = canvas.shape[0], _at(canvas, draws.between(46, 52))
    _gradient(canvas, 0, size, (176, 190, 206), (226, 226, 222), draws.between(-14, 8))
    left = -draws.between(0, 6)
    while left < 64:
        width, top, gray = draws.between(8, 14), draws.between(8, 32), draws.between(104, 150)
        x0, x1, y0 = max(0, _at(canvas, left)), _at(canvas, left + width), _at(canvas, top)
        canvas[y0:street, x0:x1] = (gray, gray + 4, gray + 12)
        lit = canvas[y0 + size // 32 : street : max(2, size // 16), x0 + size // 32 : x1 - 1 : max(2, size // 21)]
        lit[:] = (236, 220, 150)
        left += width + draws.between(0, 3)
    _gradient(canvas, street, size, (84, 86, 92), (66, 68, 74))
    lane = _at(canvas, 64 + street * 64 // size) // 2
    for dash in range(0, 64, 12):
        canvas[lane : lane + max(1, size // 64), _at(canvas, dash) : _at(canvas, dash + 6)] = (236, 226, 170)


_PAINTERS: dict[str, Callable[[Canvas, RandomStream], None]] = {
    "sky": _sky,
    "meadow": _meadow,
    "night": _night,
    "sea": _sea,
    "desert": _desert,
    "snow": _snow,
    "sunset": _sunset,
    "room": _room,
    "kitchen": _kitchen,
    "city": _city,
}
