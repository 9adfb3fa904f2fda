"""Images and texts of a request, checked and made into what the towers read. The HTTP server and the MLflow model use it.

This module imports nothing beyond what a registered model needs (`registry.versions.packaging.REQUIRED`).
"""

import base64
import binascii
from typing import Final

from torch import Tensor

from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.data.limits import (
    DEFAULT_LIMITS,
    TOO_LARGE,
    TOO_MANY_PIXELS,
    TOO_MANY_SCANS,
    UNDECODABLE_IMAGE,
    UNSUPPORTED_IMAGE,
    SampleLimits,
    find_excess,
)
from clips_pipeline.evaluation.inference.embed import ImageTransform, open_image
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

EMPTY_TEXT: Final = "empty_text"
NOT_BASE64: Final = "not_base64"

_REMEDIES: Final = {
    UNDECODABLE_IMAGE: "the image cannot be decoded; send a complete JPEG, PNG or WebP file",
    UNSUPPORTED_IMAGE: "the image is no JPEG, PNG or WebP file; convert it",
    TOO_MANY_PIXELS: "the image has too many pixels ({}); scale it down",
    TOO_MANY_SCANS: "the JPEG has too many scans ({}); save it as a baseline JPEG",
    TOO_LARGE: "the image file is too large ({}); scale it down",
}


NO_TEXT_TOWER = "this model has no text tower (method captioning), so that it embeds images only"


class RefusedInputError(ValueError):
    """An image or text that is not embedded; the message names no file and no address in memory.

    Args:
        reason: short name, for programs.
        message: what is wrong, and the remedy.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def image_tensor(image: bytes | str, transform: ImageTransform, limits: SampleLimits = DEFAULT_LIMITS) -> Tensor:
    """Return the (C, H, W) tensor of an image.

    Args:
        image: content of a JPEG, PNG or WebP file, or its base64.
        transform: image transform of the model.
        limits: limits on bytes, pixels and scans.

    Raises:
        RefusedInputError: the image is not base64, cannot be decoded, or is above a limit.
    """
    try:
        return transform(open_image(_decode_base64(image, limits) if isinstance(image, str) else image, limits))
    except UndecodableImageError as error:
        # The text of a decoder's error may contain an address in memory; that of a limit is ours, behind its class.
        detail = str(error).partition(": ")[2]
        remedy = _REMEDIES.get(error.reason, _REMEDIES[UNDECODABLE_IMAGE])
        raise RefusedInputError(error.reason, remedy.format(detail)) from None


def text_row(text: str, tokenizer: Tokenizer, length: int, limits: SampleLimits = DEFAULT_LIMITS) -> list[int]:
    """Return the encoder row of a text.

    Args:
        text: the text; a longer one than the row is truncated, as in training.
        tokenizer: tokenizer of the model.
        length: ids of a row.
        limits: limits on bytes and on characters without white space.

    Raises:
        RefusedInputError: nothing of the text is left for the model to read, or it is above a limit.
    """
    excess = find_excess(text, limits)
    if excess is not None:
        raise RefusedInputError(excess[0], f"the text is too long ({excess[1]}); shorten it")
    body = tokenizer.body(text)
    if not body:
        raise RefusedInputError(EMPTY_TEXT, "the text is empty; give one with letters or digits")
    return tokenizer.encoder_row(body, length)


def _decode_base64(text: str, limits: SampleLimits) -> bytes:
    # Refused before it is decoded: three bytes from four letters.
    size = len(text) * 3 // 4
    if size > limits.max_image_bytes + 2:
        raise RefusedInputError(
            TOO_LARGE, _REMEDIES[TOO_LARGE].format(f"{size} bytes; max_image_bytes is {limits.max_image_bytes}")
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedInputError(
            NOT_BASE64, "the image is text but not valid base64; give the base64 of an image file"
        ) from None
