"""Decoding of encoded images; JPEGs optionally at 1/2, 1/4 or 1/8 of their size.

Ordinary JPEGs are decoded by simplejpeg: it uses libjpeg-turbo as Pillow does, so the pixels are the same, but writes
directly into an array and takes three quarters of the time. All other images, and JPEGs that simplejpeg refuses, are
decoded by Pillow. Only Pillow decides whether an image is too damaged.
"""

import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from clips_pipeline.data.images.color import Pixels, to_rgb
from clips_pipeline.data.images.formats import check_limits, check_pixels, is_jpeg, open_image
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits

SCALES = (1, 2, 4, 8)
"""JPEG reduction factors: the decoder leaves out high frequencies of the 8 x 8 blocks and does less work."""

_PLAIN = ("YCbCr", "Gray")


class EncodedImage:
    """An encoded image file. Its size is known after construction; pixels are decoded by `decode`.

    Args:
        content: the bytes of an image file.
        limits: limits on bytes, pixels and scans, checked before anything is decoded.

    Attributes:
        width: in pixels.
        height: in pixels.
        scales: the factors of `SCALES` at which it can be decoded.

    Raises:
        OSError, ValueError, …: one of `DECODE_ERRORS`: the bytes are not an image. `decode` raises the same.
    """

    def __init__(self, content: bytes, limits: SampleLimits = DEFAULT_LIMITS) -> None:
        self._content, self._limits = content, limits
        self._opened: Image.Image | None = None
        if is_jpeg(content):
            check_limits(content, limits)
            try:
                self.height, self.width, colors, _ = simplejpeg.decode_jpeg_header(content)
            except ValueError:
                colors = "unknown"
            if colors in _PLAIN:
                check_pixels(self.width, self.height, limits)
                self.scales: tuple[int, ...] = SCALES
                return
        self._opened = open_image(content, limits)
        self.width, self.height = self._opened.size
        self.scales = SCALES if isinstance(self._opened, JpegImageFile) else SCALES[:1]

    def decode(self, scale: int = 1) -> Pixels | Image.Image:
        """Decode to RGB, with both sides divided by `scale` (one of `scales`) and rounded up.

        Returns:
            An array (height, width, 3) from simplejpeg, or an image from Pillow.
        """
        if self._opened is None:
            # simplejpeg returns the smallest size that is at least this large.
            least = {"min_height": -(-self.height // scale), "min_width": -(-self.width // scale)} if scale > 1 else {}
            try:
                pixels_HWC: Pixels = simplejpeg.decode_jpeg(self._content, **least)
                return pixels_HWC
            except ValueError:
                self._opened = open_image(self._content, self._limits)
        with self._opened as opened:
            if scale > 1:
                opened.draft("RGB", (self.width // scale, self.height // scale))
            return to_rgb(opened)
