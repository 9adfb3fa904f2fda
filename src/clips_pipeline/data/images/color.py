"""Colours of pictures: any kind to red, green and blue, and the random changes of training.

The four changes (brightness, contrast, saturation, hue) are Pillow's and torchvision's, with their coefficients, but a
picture stays in float32 from the first to the last and is rounded once; after each it is brought back into 0 to 255. So
every value is within 1 of the same steps in exact arithmetic; Pillow, which rounds after each step and keeps hue in 8
bits, strays further. torchvision's functions take 1.8 ms for a picture of 112 pixels, these 0.4.

Legend of suffixes: C channels (red, green, blue), H W image, N = H W.
"""

import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue in the brightness that people see (ITU-R 601)."""


def to_rgb(picture: Image.Image) -> Image.Image:
    """The picture in red, green and blue, decoded."""
    if picture.mode == "RGB":
        picture.load()
        return picture
    # Pillow warns when transparency of a palette would get lost without going through RGBA.
    return (picture.convert("RGBA") if picture.mode == "P" else picture).convert("RGB")


def augment_colors(
    pixels_CHW: Pixels, *, strength: float, jitter: float, grayscale: float, draws: random.Random
) -> Pixels:
    """Change the colours of a picture at random; a picture that is left as it is comes back itself.

    Args:
        pixels_CHW: the picture.
        strength: s: brightness, contrast and saturation change by a factor of 1 - 0.8 s to 1 + 0.8 s, hue by up to 0.2 s
            of the circle, in random order.
        jitter: probability of that.
        grayscale: probability of losing all colours, afterwards.
        draws: the only source of chance.
    """
    # Always drawn, so that switching one change off leaves the others as they were.
    jitter_draw, gray_draw = draws.random(), draws.random()
    jittered, gray = strength > 0.0 and jitter_draw < jitter, gray_draw < grayscale
    if not jittered and not gray:
        return pixels_CHW
    values_CN = pixels_CHW.reshape(3, -1).astype(np.float32)
    if jittered:
        reach, turn = 0.8 * strength, 0.2 * strength
        changes = ["brightness", "contrast", "saturation", "hue"]
        draws.shuffle(changes)
        for change in changes:
            amount = draws.uniform(-turn, turn) if change == "hue" else draws.uniform(1.0 - reach, 1.0 + reach)
            _ADJUSTMENTS[change](values_CN, amount)
    if gray:
        values_CN[:] = LUMA @ values_CN
    # All values are 0 or more: adding a half and cutting off is rounding.
    values_CN += np.float32(0.5)
    return values_CN.astype(np.uint8).reshape(pixels_CHW.shape)


def adjust_brightness(values_CN: Floats, factor: float) -> None:
    """Multiply, in place."""
    values_CN *= np.float32(factor)
    _clip(values_CN, factor)


def adjust_contrast(values_CN: Floats, factor: float) -> None:
    """Stretch all values away from the mean brightness of the picture, in place."""
    mean = float((LUMA @ values_CN).mean())
    values_CN *= np.float32(factor)
    values_CN += np.float32((1.0 - factor) * mean)
    _clip(values_CN, factor)


def adjust_saturation(values_CN: Floats, factor: float) -> None:
    """Stretch the values of each pixel away from its brightness, in place."""
    gray_N = (LUMA * np.float32(1.0 - factor)) @ values_CN
    values_CN *= np.float32(factor)
    values_CN += gray_N
    _clip(values_CN, factor)


def adjust_hue(values_CN: Floats, turn: float) -> None:
    """Turn the hue by a share of the full circle, from -0.5 to 0.5, keeping value and saturation of HSV; in place.

    Everything is counted in chromas, the largest less the smallest value of a pixel: hue is then a place on a circle of 6
    chromas with red at 0, green at 2 and blue at 4; a channel has the largest value up to 1 chroma from its own place and
    the smallest one from 2 chromas on. Nothing needs a division, and masks are multiplied, for branches would be slow.
    """
    # To turn the other way is to turn this way with green and blue exchanged.
    red_N, green_N, blue_N = values_CN if turn >= 0.0 else values_CN[[0, 2, 1]]
    low_N = np.minimum(red_N, green_N)
    np.minimum(low_N, blue_N, out=low_N)
    top_N = np.maximum(red_N, green_N)
    np.maximum(top_N, blue_N, out=top_N)
    chroma_N = top_N - low_N
    two_N, three_N = chroma_N * np.float32(2.0), chroma_N * np.float32(3.0)

    # The smallest value tells the third of the circle, the other two the place in it.
    place_N = red_N - blue_N
    place_N += two_N
    place_N += three_N
    part_N = blue_N - green_N
    part_N += three_N
    _replace(place_N, part_N, red_N == low_N)
    np.subtract(green_N, red_N, out=part_N)
    part_N += chroma_N
    _replace(place_N, part_N, blue_N == low_N)
    chroma_N *= np.float32(6.0 * abs(turn))
    place_N += chroma_N

    # That may be up to 3 chromas past the end of the circle. 3 less the distance from 3 after a channel's own place is
    # the distance from that place or from the same one a circle later, whichever is nearer.
    highest_N = np.add(two_N, low_N, out=part_N)
    for channel_N, step_N in ((red_N, three_N), (green_N, two_N), (blue_N, two_N)):
        place_N -= step_N
        np.abs(place_N, out=channel_N)
        channel_N -= three_N
        np.abs(channel_N, out=channel_N)
        np.subtract(highest_N, channel_N, out=channel_N)
        # Not `np.clip`, which takes arrays as bounds at a tenth of the speed.
        np.minimum(channel_N, top_N, out=channel_N)
        np.maximum(channel_N, low_N, out=channel_N)
    if turn < 0.0:
        values_CN[0], values_CN[1], values_CN[2] = red_N, blue_N, green_N


def _replace(values_N: Floats, others_N: Floats, where_N: NDArray[np.bool_]) -> None:
    """Values where the mask holds become the others, in place; `others_N` is used up."""
    others_N -= values_N
    others_N *= where_N.view(np.uint8).astype(np.float32)
    values_N += others_N


_ADJUSTMENTS = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def _clip(values_CN: Floats, factor: float) -> None:
    # A factor up to 1 draws values together: none can have left the range.
    if factor > 1.0:
        np.clip(values_CN, 0.0, 255.0, out=values_CN)
