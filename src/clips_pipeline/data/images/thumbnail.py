"""Thumbnails for reports, encoded again so that a page holds no bytes of a source file."""

import io
from dataclasses import dataclass

from clips_pipeline.data.images.formats import open_image
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits


@dataclass(frozen=True)
class Thumbnail:
    """A small WebP image, and the width and height in pixels of the original."""

    webp: bytes
    width: int
    height: int


def make_thumbnail(data: bytes, longest: int, limits: SampleLimits = DEFAULT_LIMITS) -> Thumbnail:
    """Return a thumbnail of an encoded image.

    Args:
        data: content of a JPEG, PNG or WebP file.
        longest: longer side of the thumbnail in pixels; a smaller image is not enlarged.
        limits: limits on bytes, pixels and scans of the file.

    Raises:
        Exception: one of `DECODE_ERRORS`: the bytes are not a complete image.
    """
    with open_image(data, limits) as opened:
        width, height = opened.size
        opened.draft("RGB", (longest, longest))
        small = opened.convert("RGB")
    small.thumbnail((longest, longest))
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=80)
    return Thumbnail(stream.getvalue(), width, height)
