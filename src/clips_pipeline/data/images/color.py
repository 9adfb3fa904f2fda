"""Conversion of images to RGB, and the random color changes of training.

The four adjustments (brightness, contrast, saturation, hue) use the coefficients of Pillow and torchvision. The image
stays in float32 through all of them and is rounded once; after each, values are clipped to 0 to 255. Every value is
therefore within 1 of the same steps in exact arithmetic. Pillow deviates more: it rounds after each step and keeps hue
in 8 bits. For an image of 112 px, torchvision's functions take 1.8 ms, these take 0.4 ms.

Shapes: C channels (red, green, blue), H W image, N = H W.
"""

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the perceived brightness (ITU-R 601)."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the decoded image in RGB."""
    if image.mode == "RGB":
        image.load()
        return image
    # Pillow warns if the transparency of a palette would be lost, unless the image goes through RGBA.
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


@dataclass(frozen=True)
class ColorChanges:
    """The color changes of one image.

    Attributes:
        adjustments: names in `ADJUSTMENTS` in the order of their application, each with its amount; all four, or none.
        gray: whether the image is converted to grayscale afterwards.
    """

    adjustments: tuple[tuple[str, float], ...]
    gray: bool

    def to_row(self) -> list[float]:
        """Return nine numbers for `color_batch`: for each adjustment its place in `ADJUSTMENTS` (-1: none) and its amount; gray."""
        numbers = [(float(tuple(ADJUSTMENTS).index(name)), amount) for name, amount in self.adjustments]
        numbers += [(-1.0, 0.0)] * (len(ADJUSTMENTS) - len(numbers))
        return [*(number for pair in numbers for number in pair), float(self.gray)]


def draw_changes(*, strength: float, jitter: float, grayscale: float, draws: random.Random) -> ColorChanges:
    """Draw color jitter and grayscale.

    Args:
        strength: s: brightness, contrast and saturation are multiplied by 1 - 0.8 s to 1 + 0.8 s, hue is shifted by up
            to 0.2 s of the circle; the four are applied in random order.
        jitter: probability of the color jitter.
        grayscale: probability of converting to grayscale after the jitter.
        draws: the only source of randomness.
    """
    # Both are always drawn, so that disabling one does not change the other.
    jitter_draw, gray_draw = draws.random(), draws.random()
    gray = gray_draw < grayscale
    if strength == 0.0 or jitter_draw >= jitter:
        return ColorChanges((), gray)
    reach, turn = 0.8 * strength, 0.2 * strength
    names = list(ADJUSTMENTS)
    draws.shuffle(names)
    return ColorChanges(
        tuple(
            (name, draws.uniform(-turn, turn) if name == "hue" else draws.uniform(1.0 - reach, 1.0 + reach))
            for name in names
        ),
        gray,
    )


def apply_changes(pixels_CHW: Pixels, changes: ColorChanges) -> Pixels:
    """Return the changed image; the same array if nothing changes."""
    if not changes.adjustments and not changes.gray:
        return pixels_CHW
    values_CN = pixels_CHW.reshape(3, -1).astype(np.float32)
    for name, amount in changes.adjustments:
        ADJUSTMENTS[name](values_CN, amount)
    if changes.gray:
        values_CN[:] = LUMA @ values_CN
    # All values are non-negative: adding 0.5 and truncating rounds.
    values_CN += np.float32(0.5)
    return values_CN.astype(np.uint8).reshape(pixels_CHW.shape)


def adjust_brightness(values_CN: Floats, factor: float) -> None:
    """Multiply, in place."""
    values_CN *= np.float32(factor)
    _clip(values_CN, factor)


def adjust_contrast(values_CN: Floats, factor: float) -> None:
    """Scale all values around the mean brightness of the image, in place."""
    mean = float((LUMA @ values_CN).mean())
    values_CN *= np.float32(factor)
    values_CN += np.float32((1.0 - factor) * mean)
    _clip(values_CN, factor)


def adjust_saturation(values_CN: Floats, factor: float) -> None:
    """Scale the values of each pixel around its brightness, in place."""
    gray_N = (LUMA * np.float32(1.0 - factor)) @ values_CN
    values_CN *= np.float32(factor)
    values_CN += gray_N
    _clip(values_CN, factor)


def adjust_hue(values_CN: Floats, turn: float) -> None:
    """Shift the hue by a fraction of the circle, from -0.5 to 0.5, keeping value and saturation of HSV; in place.

    The unit is the chroma of a pixel (largest minus smallest value). Hue is then a position on a circle of 6 chromas,
    with red at 0, green at 2 and blue at 4. A channel has the largest value up to 1 chroma from its own position, and
    the smallest value from 2 chromas on. This needs no division, and masks are multiplied because branches would be
    slow.
    """
    # A negative shift equals a positive shift with green and blue exchanged.
    red_N, green_N, blue_N = values_CN if turn >= 0.0 else values_CN[[0, 2, 1]]
    low_N = np.minimum(red_N, green_N)
    np.minimum(low_N, blue_N, out=low_N)
    top_N = np.maximum(red_N, green_N)
    np.maximum(top_N, blue_N, out=top_N)
    chroma_N = top_N - low_N
    two_N, three_N = chroma_N * np.float32(2.0), chroma_N * np.float32(3.0)

    # The channel with the smallest value gives the third of the circle, the other two the position within it.
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

    # The position may be up to 3 chromas past the end of the circle. After subtracting a channel's own position,
    # 3 - |distance - 3| is the distance to that position or to the same one on the next turn, whichever is nearer.
    highest_N = np.add(two_N, low_N, out=part_N)
    for channel_N, step_N in ((red_N, three_N), (green_N, two_N), (blue_N, two_N)):
        place_N -= step_N
        np.abs(place_N, out=channel_N)
        channel_N -= three_N
        np.abs(channel_N, out=channel_N)
        np.subtract(highest_N, channel_N, out=channel_N)
        # Not `np.clip`: with arrays as bounds it takes ten times as long.
        np.minimum(channel_N, top_N, out=channel_N)
        np.maximum(channel_N, low_N, out=channel_N)
    if turn < 0.0:
        values_CN[0], values_CN[1], values_CN[2] = red_N, blue_N, green_N


def _replace(values_N: Floats, others_N: Floats, where_N: NDArray[np.bool_]) -> None:
    """Replace values by the others where the mask holds, in place; overwrites `others_N`."""
    others_N -= values_N
    others_N *= where_N.view(np.uint8).astype(np.float32)
    values_N += others_N


ADJUSTMENTS = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
"""Function of each adjustment, which gets the values (C, N) and an amount."""


def _clip(values_CN: Floats, factor: float) -> None:
    # A factor up to 1 moves values towards each other, so none can leave the range.
    if factor > 1.0:
        np.clip(values_CN, 0.0, 255.0, out=values_CN)
