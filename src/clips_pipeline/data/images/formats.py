"""Image formats by content: JPEG, PNG and WebP are opened, no other decoder is used.

Pillow tries all its decoders on bytes of an unknown format: an EPS file named `.jpg` starts Ghostscript, and a FITS file
of 1 MB becomes 2 GiB. This module is the only place that opens an encoded image, and it applies the limits on pixels
and scans before anything is decoded.
"""

import io
import os
import re
from pathlib import Path
from typing import ClassVar, Final

from PIL import Image

from clips_pipeline.data.limits import (
    DEFAULT_LIMITS,
    TOO_LARGE,
    TOO_MANY_PIXELS,
    TOO_MANY_SCANS,
    UNDECODABLE_IMAGE,
    UNSUPPORTED_IMAGE,
    SampleLimits,
)

FORMATS: Final = ("JPEG", "PNG", "WEBP")
"""Formats that are opened, by Pillow's names."""

DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, Image.DecompressionBombError)
"""Errors that Pillow raises for damaged files: besides OSError, its plug-ins raise struct and value errors."""

# Markers of a JPEG: 0xFF, perhaps repeated, and a byte that is neither 0xFF nor 0.
_MARKER = re.compile(rb"\xff+([\x01-\xfe])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Kinds of frames that need no second scan if the first one has all components.
_SEQUENTIAL = frozenset((0xC0, 0xC1, 0xC3, 0xC9, 0xCB))
# Every segment costs time in Pillow. A color profile has up to 255; the other ones of a file are few.
_MAX_SEGMENTS = 5_000
# The same for the chunks of a PNG, which may also hold its pixels, usually 8 KiB in each.
_MAX_CHUNKS, _MIN_CHUNK_BYTES, _CHUNK_BYTES = 10_000, 12, 1_024


class RefusedImageError(OSError):
    """An image that is not decoded; `reason` is the skip reason."""

    reason: ClassVar[str] = UNDECODABLE_IMAGE


class UnsupportedImageError(RefusedImageError):
    """The bytes are not a JPEG, PNG or WebP file."""

    reason = UNSUPPORTED_IMAGE


class TooManyPixelsError(RefusedImageError):
    """The header gives more pixels than the limit."""

    reason = TOO_MANY_PIXELS


class TooManyScansError(RefusedImageError):
    """A JPEG has more scans than the limit."""

    reason = TOO_MANY_SCANS


class TooLargeImageError(RefusedImageError):
    """The file has more bytes than the limit."""

    reason = TOO_LARGE


def is_jpeg(content: bytes) -> bool:
    """Return whether the bytes begin like a JPEG file."""
    return content.startswith(b"\xff\xd8\xff")


def open_image(content: bytes, limits: SampleLimits = DEFAULT_LIMITS) -> Image.Image:
    """Open an encoded image without decoding its pixels.

    Args:
        content: the bytes of an image file.
        limits: limits on bytes, pixels and scans.

    Raises:
        RefusedImageError: the content is not JPEG, PNG or WebP, or it is above a limit.
        Exception: one of `DECODE_ERRORS`: the file is damaged.
    """
    check_limits(content, limits)
    opened = Image.open(io.BytesIO(content), formats=FORMATS)
    # Pillow may have found another header than `check_limits`.
    check_pixels(*opened.size, limits)
    return opened


def check_limits(content: bytes, limits: SampleLimits) -> None:
    """Raise if the content is not JPEG, PNG or WebP, or is above a limit by its headers; nothing is decoded.

    Args:
        content: the bytes of an image file.
        limits: limits on bytes, pixels and scans.

    Raises:
        RefusedImageError: see above.
    """
    if len(content) > limits.max_image_bytes:
        raise TooLargeImageError(f"{len(content)} bytes; max_image_bytes is {limits.max_image_bytes}")
    if is_jpeg(content):
        width, height, scans = _jpeg_header(content)
        check_pixels(width, height, limits)
        if scans > limits.max_jpeg_scans:
            raise TooManyScansError(f"{scans} scans; max_jpeg_scans is {limits.max_jpeg_scans}")
        if scans * width * height > limits.max_scanned_pixels:
            raise TooManyScansError(
                f"{scans} scans of {width} x {height}; max_scanned_pixels is {limits.max_scanned_pixels}"
            )
    elif content.startswith(b"\x89PNG\r\n\x1a\n"):
        check_pixels(int.from_bytes(content[16:20]), int.from_bytes(content[20:24]), limits)
        _check_png_chunks(content)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        check_pixels(*_webp_size(content), limits)
    else:
        raise UnsupportedImageError("not a JPEG, PNG or WebP file by its content")


def read_image(file: Path, limits: SampleLimits = DEFAULT_LIMITS) -> bytes:
    """Return the content of an image file.

    Args:
        file: path of the file.
        limits: limit on its bytes; of a larger file nothing is read.

    Raises:
        TooLargeImageError: see above.
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > limits.max_image_bytes:
            raise TooLargeImageError(f"{size} bytes; max_image_bytes is {limits.max_image_bytes}")
        return opened.read(limits.max_image_bytes)


def check_pixels(width: int, height: int, limits: SampleLimits) -> None:
    """Raise if an image of this width and height has too many pixels.

    Raises:
        TooManyPixelsError: see above.
    """
    if width * height > limits.max_pixels:
        raise TooManyPixelsError(f"{width} x {height}, max_pixels is {limits.max_pixels}")


def _jpeg_header(content: bytes) -> tuple[int, int, int]:
    """Return width, height and number of scans; zeros where the headers are damaged, which the decoder finds too.

    A file with one scan, as most have, is read up to that scan: 6 µs. Counting the scans of the others takes 1.5 % of
    the time to decode them.
    """
    width = height = at = 0
    frame, components = 0, b""
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(content, at)
        if found is None:
            return width, height, 0
        kind, at = found[1][0], found.end()
        if kind in _WITHOUT_LENGTH:
            continue
        if kind == _START_OF_SCAN:
            if frame in _SEQUENTIAL and content[at + 2 : at + 3] == components:
                return width, height, 1
            # In the pixels, 0xFF is followed by 0 or by a restart marker.
            return width, height, 1 + content.count(b"\xff\xda", at)
        length = int.from_bytes(content[at : at + 2])
        if kind == _END_OF_IMAGE or length < 2:
            return width, height, 0
        if kind in _FRAMES:
            frame, components = kind, content[at + 7 : at + 8]
            height, width = int.from_bytes(content[at + 3 : at + 5]), int.from_bytes(content[at + 5 : at + 7])
        at += length
    raise RefusedImageError(f"more than {_MAX_SEGMENTS} segments before its pixels")


def _check_png_chunks(content: bytes) -> None:
    if len(content) < _MAX_CHUNKS * _MIN_CHUNK_BYTES:
        return
    most, at = _MAX_CHUNKS + len(content) // _CHUNK_BYTES, 8
    for _ in range(most):
        if at >= len(content) or content[at + 4 : at + 8] == b"IEND":
            return
        at += _MIN_CHUNK_BYTES + int.from_bytes(content[at : at + 4])
    raise RefusedImageError(f"more than {most} chunks")


def _webp_size(content: bytes) -> tuple[int, int]:
    """Return width and height from the first chunk; libwebp allocates them before Pillow sees the size."""
    kind = content[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(content[26:28], "little") & 0x3FFF, int.from_bytes(content[28:30], "little") & 0x3FFF
    return 0, 0
