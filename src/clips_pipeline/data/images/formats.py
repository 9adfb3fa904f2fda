"""Image formats by content: JPEG, PNG and WebP are opened, no other decoder is used.

Pillow tries all its decoders on bytes of an unknown format: an EPS file named `.jpg` starts Ghostscript, and a FITS file
of 1 MB becomes 2 GiB. This module is the only place that opens an encoded image.
"""

import io
from typing import Final

from PIL import Image

FORMATS: Final = ("JPEG", "PNG", "WEBP")
"""Formats that are opened, by Pillow's names."""

DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, Image.DecompressionBombError)
"""Errors that Pillow raises for damaged files: besides OSError, its plug-ins raise struct and value errors."""


class UnsupportedImageError(OSError):
    """The bytes are not a JPEG, PNG or WebP file."""


def is_jpeg(content: bytes) -> bool:
    """Return whether the bytes begin like a JPEG file."""
    return content.startswith(b"\xff\xd8\xff")


def open_image(content: bytes) -> Image.Image:
    """Open an encoded image without decoding its pixels.

    Raises:
        UnsupportedImageError: the content is not JPEG, PNG or WebP.
        Exception: one of `DECODE_ERRORS`: the file is damaged.
    """
    is_png = content.startswith(b"\x89PNG\r\n\x1a\n")
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if not (is_jpeg(content) or is_png or is_webp):
        raise UnsupportedImageError("not a JPEG, PNG or WebP file by its content")
    return Image.open(io.BytesIO(content), formats=FORMATS)
