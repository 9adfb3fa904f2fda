"""The color changes of `color` for a batch of images at once, on any device.

A loader worker draws the changes and sends them with the batch (`ColorChanges.to_row`); the device applies them. The host waits for
nothing: every image goes through every step, and `torch.where` keeps what applies.

Shapes: B images, C channels (red, green, blue), H W image, N = H W, 9 numbers of a row of `ColorChanges.to_row`.
"""

import torch
from torch import Tensor

from clips_pipeline.data.images.color import ADJUSTMENTS, LUMA

MAX_VALUES = 1 << 26
"""Channel values that are changed at a time, 256 MiB in float32. A few copies of them exist at the same time."""


def change_colors(images_BCHW: Tensor, changes_B9: Tensor) -> Tensor:
    """Return the changed images, within 1 of `color.apply_changes` with the same changes.

    Args:
        images_BCHW: uint8.
        changes_B9: float32, rows of `ColorChanges.to_row`, on the device of the images.
    """
    rows = max(1, MAX_VALUES // max(1, images_BCHW[0].numel()))
    parts = zip(torch.split(images_BCHW, rows), torch.split(changes_B9, rows), strict=True)
    return torch.cat([_change(images, changes) for images, changes in parts])


def _change(images_BCHW: Tensor, changes_B9: Tensor) -> Tensor:
    values_BCN = images_BCHW.flatten(2).float()
    for place in range(len(ADJUSTMENTS)):
        kind_B11, amount_B11 = changes_B9[:, 2 * place : 2 * place + 2, None, None].unbind(1)
        values_BCN = _adjust(values_BCN, kind_B11, amount_B11)
    gray_B11 = changes_B9[:, -1, None, None] > 0
    values_BCN = torch.where(gray_B11, _gray(values_BCN), values_BCN)
    # All values are non-negative: adding 0.5 and truncating rounds.
    return (values_BCN + 0.5).to(torch.uint8).view_as(images_BCHW)


def _adjust(values_BCN: Tensor, kind_B11: Tensor, amount_B11: Tensor) -> Tensor:
    """Return the values after one adjustment of each image."""
    brightness, contrast, saturation, hue = (kind_B11 == number for number in range(len(ADJUSTMENTS)))
    gray_B1N = _gray(values_BCN)
    # Brightness, contrast and saturation scale values around 0, the mean gray of the image, and the gray of the pixel.
    factor_B11 = torch.where(brightness | contrast | saturation, amount_B11, 1.0)
    center_B1N = contrast * gray_B1N.mean(dim=2, keepdim=True) + saturation * gray_B1N
    scaled_BCN = (factor_B11 * values_BCN + (1.0 - factor_B11) * center_B1N).clamp(0.0, 255.0)
    return torch.where(hue, _turn_hue(values_BCN, amount_B11[:, :, 0]), scaled_BCN)


def _gray(values_BCN: Tensor) -> Tensor:
    red, green, blue = LUMA.tolist()
    gray_BN: Tensor = red * values_BCN[:, 0] + green * values_BCN[:, 1] + blue * values_BCN[:, 2]
    return gray_BN[:, None]


def _turn_hue(values_BCN: Tensor, turn_B1: Tensor) -> Tensor:
    """Shift the hue by fractions of the circle; `color.adjust_hue` explains the steps."""
    backwards = turn_B1 < 0.0
    red_BN, green_BN, blue_BN = values_BCN.unbind(1)
    # A negative shift equals a positive shift with green and blue exchanged.
    green_BN, blue_BN = torch.where(backwards, blue_BN, green_BN), torch.where(backwards, green_BN, blue_BN)
    low_BN = torch.minimum(torch.minimum(red_BN, green_BN), blue_BN)
    top_BN = torch.maximum(torch.maximum(red_BN, green_BN), blue_BN)
    chroma_BN = top_BN - low_BN
    place_BN = torch.where(
        blue_BN == low_BN,
        green_BN - red_BN + chroma_BN,
        torch.where(red_BN == low_BN, blue_BN - green_BN + 3.0 * chroma_BN, red_BN - blue_BN + 5.0 * chroma_BN),
    )
    place_BN = place_BN + 6.0 * turn_B1.abs() * chroma_BN
    turned = []
    for own in (3.0, 5.0, 7.0):
        distance_BN = ((place_BN - own * chroma_BN).abs() - 3.0 * chroma_BN).abs()
        turned.append((2.0 * chroma_BN + low_BN - distance_BN).minimum(top_BN).maximum(low_BN))
    red_BN, green_BN, blue_BN = turned
    green_BN, blue_BN = torch.where(backwards, blue_BN, green_BN), torch.where(backwards, green_BN, blue_BN)
    return torch.stack([red_BN, green_BN, blue_BN], dim=1)
