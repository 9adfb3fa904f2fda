"""Rasterization of drawings: for each pixel, how many of its 4 x 4 sample points each role covers.

Integer arithmetic only, so the counts are the same on every machine.

Shape legend: N = sample points per side of a sprite (4 per pixel), P = pixels per side, R = roles (`shapes.ROLES`).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.data.scenes.shapes import BODY, CUT, DRAWINGS, OUTLINE, PATTERN, ROLES, Ellipse, Polygon

SAMPLES_PER_PIXEL = 4
"""Sample points per pixel and direction."""
FULL_COVERAGE = SAMPLES_PER_PIXEL * SAMPLES_PER_PIXEL
"""Count of a fully covered pixel."""

_FINE = 16  # subdivisions of a drawing's unit, so that sample points are between integer coordinates

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def _inside_polygon(shape: Polygon, x_N1: Ints, y_1N: Ints) -> Bools:
    inside = np.zeros(np.broadcast_shapes(x_N1.shape, y_1N.shape), dtype=np.bool_)
    points = [(x * _FINE, y * _FINE) for x, y in shape.points]
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if y0 == y1:
            continue
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        # A ray to the right crosses this edge; multiplied out to use integers.
        crosses = (y_1N >= y0) & (y_1N < y1) & ((x_N1 - x0) * (y1 - y0) < (x1 - x0) * (y_1N - y0))
        inside ^= crosses
    return inside


def _inside_ellipse(shape: Ellipse, x_N1: Ints, y_1N: Ints) -> Bools:
    rx, ry = shape.radius_x * _FINE, shape.radius_y * _FINE
    distance = ((x_N1 - shape.x * _FINE) * ry) ** 2 + ((y_1N - shape.y * _FINE) * rx) ** 2
    return (distance <= (rx * ry) ** 2) & (y_1N < shape.floor * _FINE)


@lru_cache(maxsize=1024)
def _role_map(kind: str, pixels: int) -> NDArray[np.uint8]:
    """Return (N, N): the role at each sample point of a sprite, with a border of one pixel for the outline."""
    fine = pixels * SAMPLES_PER_PIXEL
    # Sample points are at the centers of their cells; the border extends beyond the drawing on every side.
    steps = np.arange(-SAMPLES_PER_PIXEL, fine + SAMPLES_PER_PIXEL, dtype=np.int64)
    points = (2 * steps + 1) * (100 * _FINE) // (2 * fine)
    x, y = points[None, :], points[:, None]
    roles = np.zeros((len(points), len(points)), dtype=np.uint8)
    for part in DRAWINGS[kind]:
        inside = _inside_polygon(part, x, y) if isinstance(part, Polygon) else _inside_ellipse(part, x, y)
        roles[inside] = part.role
    painted = roles != CUT
    grown = painted.copy()
    reach = max(2, fine // 40)
    for dx in range(-reach, reach + 1):
        for dy in range(-reach, reach + 1):
            if dx * dx + dy * dy <= reach * reach + 1:
                grown |= np.roll(painted, (dy, dx), axis=(0, 1))
    roles[grown & ~painted] = OUTLINE
    return roles


def _pattern_map(texture: str, pixels: int, turned: bool) -> Bools:
    """Return (N, N): where the pattern is painted, on an area of the size of the sprite."""
    side = (pixels + 2) * SAMPLES_PER_PIXEL
    # At least four pixels per stripe period, or small things would look plain.
    period = max(4 * SAMPLES_PER_PIXEL, pixels * SAMPLES_PER_PIXEL // 5)
    half = period // 2
    steps = np.arange(side, dtype=np.int64)
    x, y = steps[None, :], steps[:, None]
    if texture == "striped":
        along = x if turned else y
        return np.broadcast_to(along % period < half, (side, side))
    if texture == "checked":
        squares: Bools = (x // half + y // half) % 2 == 0
        return squares
    shift = half * ((y // period) % 2)
    dx, dy = (x + shift) % period - half, y % period - half
    dots: Bools = dx * dx + dy * dy <= (period * period) // 10
    return dots


@lru_cache(maxsize=4096)
def sprite_counts(kind: str, pixels: int, texture: str, flipped: bool) -> NDArray[np.uint8]:
    """Return the coverage of a thing of `pixels` per side: (P, P, R) with P = pixels + 2, each count in [0, FULL].

    Args:
        kind: a key of `shapes.DRAWINGS`.
        pixels: side of the thing's square in pixels, at least 1.
        texture: plain, striped, dotted or checked; painted as PATTERN over BODY.
        flipped: mirrored left to right; stripes then run up and down.
    """
    roles = _role_map(kind, pixels)
    if flipped:
        roles = roles[:, ::-1]
    if texture != "plain":
        roles = np.where((roles == BODY) & _pattern_map(texture, pixels, flipped), np.uint8(PATTERN), roles)
    side = pixels + 2
    blocks = roles.reshape(side, SAMPLES_PER_PIXEL, side, SAMPLES_PER_PIXEL)
    counts = np.zeros((side, side, ROLES), dtype=np.uint8)
    for role in np.flatnonzero(np.bincount(roles.ravel(), minlength=ROLES)):
        counts[:, :, role] = (blocks == role).sum(axis=(1, 3))
    counts.flags.writeable = False
    return counts


@lru_cache(maxsize=1024)
def ellipse_counts(radius_x: int, radius_y: int) -> NDArray[np.uint8]:
    """Return the coverage of an ellipse with radii in quarter pixels: (rows, columns), each count in [0, FULL]."""
    half_w, half_h = (
        -(-radius_x // SAMPLES_PER_PIXEL) * SAMPLES_PER_PIXEL,
        -(-radius_y // SAMPLES_PER_PIXEL) * SAMPLES_PER_PIXEL,
    )
    x = 2 * np.arange(-half_w, half_w, dtype=np.int64)[None, :] + 1
    y = 2 * np.arange(-half_h, half_h, dtype=np.int64)[:, None] + 1
    inside = (x * radius_y) ** 2 + (y * radius_x) ** 2 <= (2 * radius_x * radius_y) ** 2
    blocks = inside.reshape(
        2 * half_h // SAMPLES_PER_PIXEL, SAMPLES_PER_PIXEL, 2 * half_w // SAMPLES_PER_PIXEL, SAMPLES_PER_PIXEL
    )
    counts: NDArray[np.uint8] = blocks.sum(axis=(1, 3)).astype(np.uint8)
    counts.flags.writeable = False
    return counts
