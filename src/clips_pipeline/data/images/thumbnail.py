"""Small pictures for reports, encoded anew, so that no foreign bytes get into a page."""

import io
from dataclasses import dataclass

from clips_pipeline.data.images.formats import open_image


@dataclass(frozen=True)
class Thumbnail:
    """A small WebP picture, and the size in pixels of what it shows."""

    webp: bytes
    width: int
    height: int


def make_thumbnail(data: bytes, longest: int) -> Thumbnail:
    """Make an encoded image small.

    Args:
        data: of a JPEG, PNG or WebP file.
        longest: side of the thumbnail in pixels; a smaller image is not enlarged.

    Raises:
        Exception: one of `DECODE_ERRORS`, where the bytes are no whole image.
    """
    with open_image(data) as opened:
        width, height = opened.size
        opened.draft("RGB", (longest, longest))
        small = opened.convert("RGB")
    small.thumbnail((longest, longest))
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=80)
    return Thumbnail(stream.getvalue(), width, height)
