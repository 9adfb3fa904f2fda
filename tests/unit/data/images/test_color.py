"""Color changes, compared with naive versions: per pixel in double precision, and Pillow's own."""

import colorsys
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from clips_pipeline.data.images.color import (
    Pixels,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    apply_changes,
    draw_changes,
)

Doubles = NDArray[np.float64]


def _draws(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - no secret depends on it


def augment_colors(pixels_CHW: Pixels, *, draws: Random, **settings: float) -> Pixels:
    return apply_changes(pixels_CHW, draw_changes(**settings, draws=draws))


def naive_change(values_CN: Doubles, change: str, amount: float) -> Doubles:
    gray_N = 0.299 * values_CN[0] + 0.587 * values_CN[1] + 0.114 * values_CN[2]
    if change == "brightness":
        changed = values_CN * amount
    elif change == "contrast":
        changed = gray_N.mean() + (values_CN - gray_N.mean()) * amount
    elif change == "saturation":
        changed = gray_N + (values_CN - gray_N) * amount
    else:
        turned = []
        for pixel in values_CN.T / 255:
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            turned.append(colorsys.hsv_to_rgb((hue + amount) % 1.0, saturation, value))
        changed = np.array(turned).T * 255
    return np.clip(changed, 0, 255)


def naive_colors(pixels_CHW: Pixels, draws: Random, gray: bool, pillow: bool) -> Pixels:
    """All steps at strength 0.4; `pillow`: with Pillow, which stores 8 bits after each step."""
    picture = Image.fromarray(np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0)))
    values_CN = pixels_CHW.reshape(3, -1).astype(float)
    draws.random(), draws.random()
    changes = ["brightness", "contrast", "saturation", "hue"]
    draws.shuffle(changes)
    for change in changes:
        amount = draws.uniform(-0.08, 0.08) if change == "hue" else draws.uniform(1.0 - 0.32, 1.0 + 0.32)
        if not pillow:
            values_CN = naive_change(values_CN, change, amount)
        elif change == "hue":
            hue, saturation, value = picture.convert("HSV").split()
            step = round(amount * 256)
            picture = Image.merge("HSV", (hue.point([(h + step) % 256 for h in range(256)]), saturation, value))
            picture = picture.convert("RGB")
        else:
            kind = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}[change]
            picture = getattr(ImageEnhance, kind)(picture).enhance(amount)
    if pillow:
        picture = picture.convert("L").convert("RGB") if gray else picture
        return np.asarray(picture).transpose(2, 0, 1)
    if gray:
        values_CN = np.tile(np.array([0.299, 0.587, 0.114]) @ values_CN, (3, 1))
    return np.round(values_CN).astype(np.uint8).reshape(pixels_CHW.shape)


@pytest.fixture(scope="module")
def colors() -> Pixels:
    """Random colors, including grays, primaries, and all ways in which two channels can be equal."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 32), np.uint8)
    pixels[:, 0] = pixels[:1, 0]
    for row, (one, other) in enumerate([(0, 1), (1, 2), (2, 0)], start=1):
        pixels[one, row] = pixels[other, row]
    corners = np.array([(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)], np.uint8)
    pixels[:, 4, :8] = corners.T
    return pixels


@pytest.mark.parametrize("amount", [0.0, 0.68, 1.0, 1.32, 1.8])
@pytest.mark.parametrize("change", [adjust_brightness, adjust_contrast, adjust_saturation])
def test_brightness_contrast_saturation(change, amount: float, colors: Pixels) -> None:  # type: ignore[no-untyped-def]
    found = colors.reshape(3, -1).astype(np.float32)
    change(found, amount)
    wanted = naive_change(colors.reshape(3, -1).astype(float), change.__name__.removeprefix("adjust_"), amount)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("turn", [-0.5, -0.2, -0.08, -0.01, 0.0, 0.03, 1 / 6, 0.2, 1 / 3, 0.5])
def test_hue(turn: float, colors: Pixels) -> None:
    found = colors.reshape(3, -1).astype(np.float32)
    adjust_hue(found, turn)
    np.testing.assert_allclose(found, naive_change(colors.reshape(3, -1).astype(float), "hue", turn), atol=1e-3)


@pytest.mark.parametrize("gray", [False, True])
def test_jitter_and_grayscale(gray: bool, colors: Pixels) -> None:
    for seed in range(30):
        found = augment_colors(colors, strength=0.4, jitter=1.0, grayscale=float(gray), draws=_draws(seed)).astype(int)
        exact = naive_colors(colors, _draws(seed), gray, pillow=False)
        assert np.abs(found - exact).max() <= 1
        assert (found != exact).mean() < 0.001
        # Pillow's steps of 1/256 of the circle and of whole levels add up for strong colors.
        off = np.abs(found - naive_colors(colors, _draws(seed), gray, pillow=True))
        assert off.max() <= 14
        assert off.mean() < 2.0


def test_unchanged_image_is_returned_itself(colors: Pixels) -> None:
    before = colors.copy()
    never = augment_colors(colors, strength=0.4, jitter=0.0, grayscale=0.0, draws=_draws(0))
    no_strength = augment_colors(colors, strength=0.0, jitter=1.0, grayscale=0.0, draws=_draws(0))
    assert never is colors
    assert no_strength is colors
    augment_colors(colors, strength=1.0, jitter=1.0, grayscale=1.0, draws=_draws(0))
    assert np.array_equal(colors, before)
