"""Encoded images to pixels: random crops and color jitter for training, one fixed framing for evaluation.

Published (OpenVision, which trains CLIPS; docs/explanation/method.md): inception crops of 40 to 100 % of the area, aspect 3/4 to
4/3, bilinear with antialiasing; color jitter and grayscale; no flips. Torch is imported only where tensors are made.

Shapes: B batch, C channels (red, green, blue), H W image.
"""

import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Gt, Le
from PIL import Image

from clips_pipeline.config import ConfigError, Fraction, PositiveInt, to_mapping
from clips_pipeline.data.images.color import ColorChanges, apply_changes, draw_changes, to_rgb
from clips_pipeline.data.images.color import Pixels as Pixels
from clips_pipeline.data.images.formats import DECODE_ERRORS, open_image
from clips_pipeline.data.limits import DEFAULT_LIMITS, UNDECODABLE_IMAGE, SampleLimits

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clips_pipeline.data.images.decode import EncodedImage

Deviation = Annotated[float, Gt(0), Le(1)]
Box = tuple[int, int, int, int]

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_MAX_CROP_TRIES = 100


class UndecodableImageError(ValueError):
    """Bytes that are not decoded; `reason` is the skip reason."""

    reason = UNDECODABLE_IMAGE

    @classmethod
    def of(cls, error: Exception) -> "UndecodableImageError":
        """Return the error for one that the decoder or a limit raised."""
        made = cls(f"{type(error).__name__}: {error}")
        made.reason = getattr(error, "reason", UNDECODABLE_IMAGE)
        return made


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images; strength 0 or probability 0 disables one.

    Attributes:
        crop_area: range of the fraction of the area that a random crop takes; (1, 1) disables crops and uses the
            framing of evaluation.
        crop_aspect: range of width / height of a random crop before it is made square.
        color_jitter: strength s: brightness, contrast and saturation change by up to 0.8 s, hue by up to 0.2 s of
            the circle.
        color_jitter_probability: probability of color jitter for an image.
        grayscale_probability: probability that an image is converted to grayscale.
    """

    crop_area: tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]] = (1.0, 1.0)
    crop_aspect: tuple[Annotated[float, Gt(0), Le(100)], Annotated[float, Gt(0), Le(100)]] = (0.75, 4 / 3)
    color_jitter: Fraction = 0.0
    color_jitter_probability: Fraction = 0.8
    grayscale_probability: Fraction = 0.0

    def __post_init__(self) -> None:
        for name in ("crop_area", "crop_aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"{name}: {[low, high]}; give the smaller number first")


@dataclass(frozen=True)
class PreprocessConfig:
    """Preprocessing that training and evaluation share; exported with the model.

    Attributes:
        framing: of evaluation: `crop` keeps the aspect ratio and takes the center, `squash` keeps the whole image.
        interpolation: always with antialiasing.
        reduced_decoding: whether training decodes a JPEG at 1/2, 1/4 or 1/8 where the crop still has enough pixels.
            This is faster and gives almost the same pixels.
        mean: of red, green and blue, in [0, 1]; default: ImageNet. Imported weights need their own.
        std: standard deviation of red, green and blue, in (0, 1]; default: ImageNet.
    """

    framing: Literal["crop", "squash"] = "crop"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    reduced_decoding: bool = True
    mean: tuple[Fraction, Fraction, Fraction] = (0.485, 0.456, 0.406)
    std: tuple[Deviation, Deviation, Deviation] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageConfig(PreprocessConfig, AugmentConfig):
    """Resolution, framing, augmentation and normalization.

    Attributes:
        size: pixels per side of the model's input.
    """

    size: PositiveInt = field(kw_only=True)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values for `config.json` of an exported model; `config.from_mapping` reads them."""
        return to_mapping(self)


def train_pixels(
    image: bytes, config: ImageConfig, *, seed: int, epoch: int, key: str, limits: SampleLimits = DEFAULT_LIMITS
) -> Pixels:
    """Return a random view of an encoded image; a pure function of its arguments. `random_view` describes it.

    Returns:
        (3, size, size) uint8.

    Raises:
        UndecodableImageError: the bytes are not a complete image.
    """
    return apply_changes(*random_view(image, config, seed=seed, epoch=epoch, key=key, limits=limits))


def random_view(
    image: bytes, config: ImageConfig, *, seed: int, epoch: int, key: str, limits: SampleLimits = DEFAULT_LIMITS
) -> tuple[Pixels, ColorChanges]:
    """Return a random crop of an encoded image, and the color changes to apply to it.

    Args:
        image: the bytes of an image file.
        config: resolution and augmentation.
        seed: seed of the training.
        epoch: number of completed passes over the data.
        key: key of the sample.
        limits: limits on bytes, pixels and scans of the file.

    Returns:
        (3, size, size) uint8, and the changes.

    Raises:
        UndecodableImageError: the bytes are not a complete image.
    """
    # Imported here: a registered model includes this file but never trains, and need not have simplejpeg installed.
    from clips_pipeline.data.images.decode import EncodedImage

    # The prefix separates these draws from those of the fragment, which have the same seed, epoch and key.
    digest = hashlib.blake2b(f"image/{seed}/{epoch}/{key}".encode(), digest_size=8).digest()
    draws = random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - not used for security
    try:
        if config.crop_area == (1.0, 1.0):
            with open_image(image, limits) as opened:
                pixels_CHW = _to_channels_first(_apply_framing(to_rgb(opened), config))
        else:
            pixels_CHW = _random_crop(EncodedImage(image, limits), config, draws)
    except DECODE_ERRORS as error:
        raise UndecodableImageError.of(error) from None
    return pixels_CHW, draw_changes(
        strength=config.color_jitter,
        jitter=config.color_jitter_probability,
        grayscale=config.grayscale_probability,
        draws=draws,
    )


def eval_pixels(image: Image.Image, config: ImageConfig) -> Pixels:
    """Return the fixed evaluation view of an image, (3, size, size) uint8.

    Raises:
        UndecodableImageError: the image was opened from bytes that are not a complete image.
    """
    try:
        return _to_channels_first(_apply_framing(to_rgb(image), config))
    except DECODE_ERRORS as error:
        raise UndecodableImageError.of(error) from None


def eval_image(image: Image.Image, config: ImageConfig) -> "Tensor":
    """Return the fixed evaluation view as the model reads it: (3, size, size) float32, normalized.

    Raises:
        UndecodableImageError: see `eval_pixels`.
    """
    import torch

    return normalize(torch.from_numpy(eval_pixels(image, config))[None], config.mean, config.std)[0]


def normalize(images_BCHW: "Tensor", mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """Convert uint8 to float32: (pixel / 255 - mean) / std per channel, on the device of the images."""
    import torch

    if images_BCHW.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 from 0 to 255, not {images_BCHW.dtype}: normalized twice?")
    mean_C11, std_C11 = (_by_channel(tuple(values), images_BCHW.device) for values in (mean, std))
    # In place: the copy in float32 is four times as large as the batch.
    return images_BCHW.float().div_(255.0).sub_(mean_C11).div_(std_C11)


@functools.lru_cache(maxsize=64)
def _by_channel(values: tuple[float, ...], device: "torch.device") -> "Tensor":
    """Return (C, 1, 1) on the device, copied there once: each copy from the host would wait for the device."""
    import torch

    # A tensor created in inference mode could not be used in training later.
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(-1, 1, 1)


def _random_crop(encoded: "EncodedImage", config: ImageConfig, draws: random.Random) -> Pixels:
    """Return a random inception crop, resized to (3, size, size)."""
    left, top, right, bottom = _random_box((encoded.width, encoded.height), config, draws)
    enough = min(right - left, bottom - top) / config.size
    scale = max((scale for scale in encoded.scales if scale <= enough), default=1)
    # Rounded to whole pixels of the reduced image, also without reduced decoding, so that both give the same region.
    left, top, right, bottom = (round(side / scale) for side in (left, top, right, bottom))
    if not config.reduced_decoding:
        left, top = left * scale, top * scale
        right, bottom = min(right * scale, encoded.width), min(bottom * scale, encoded.height)
        scale = 1
    decoded = encoded.decode(scale)
    if isinstance(decoded, Image.Image):
        part = decoded.crop((left, top, right, bottom))
        return _to_channels_first(part.resize((config.size, config.size), _FILTERS[config.interpolation]))
    return _resize(decoded[top:bottom, left:right], config)


def _resize(pixels_HWC: Pixels, config: ImageConfig) -> Pixels:
    """Resize to (3, size, size): within 1 of Pillow's result, in a third of the time (vector instructions)."""
    import torch
    from torch.nn.functional import interpolate

    pixels_1CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None]
    resized_1CHW = interpolate(pixels_1CHW, (config.size, config.size), mode=config.interpolation, antialias=True)
    return np.ascontiguousarray(resized_1CHW[0].numpy())


def _random_box(size: tuple[int, int], config: ImageConfig, draws: random.Random) -> Box:
    """Return left, top, right, bottom of an inception crop in pixels; the whole image if no crop fits."""
    width, height = size
    for _ in range(_MAX_CROP_TRIES):
        area = draws.uniform(*config.crop_area) * width * height
        aspect = draws.uniform(*config.crop_aspect)
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = draws.randint(0, width - w), draws.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def _apply_framing(image: Image.Image, config: ImageConfig) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    # Resizing the center square equals resizing the shorter side and then cropping, without the rounding in between.
    left, top = (width - side) / 2, (height - side) / 2
    box = (0, 0, width, height) if config.framing == "squash" else (left, top, left + side, top + side)
    return image.resize((config.size, config.size), _FILTERS[config.interpolation], box=box)


def _to_channels_first(image: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))
