"""Encoded images to pixels, JPEGs at 1/2, 1/4 or 1/8 of their size where that is enough.

Ordinary JPEGs go through simplejpeg: libjpeg-turbo as in Pillow and so the same pixels, but straight into an array, in
three quarters of the time. Everything else, and each JPEG that simplejpeg finds fault with, goes through Pillow, which
alone decides what is too damaged to be used.
"""

import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from clips_pipeline.data.images.color import Pixels, to_rgb
from clips_pipeline.data.images.formats import is_jpeg, open_image

SCALES = (1, 2, 4, 8)
"""A JPEG holds blocks of 8 x 8 frequencies: leaving the high ones out gives a picture so many times smaller for less work."""

_PLAIN = ("YCbCr", "Gray")


class EncodedImage:
    """The bytes of an image file. Its size is known at once; its pixels are decoded on demand.

    Attributes:
        width: in pixels.
        height: likewise.
        scales: of `SCALES`, those at which it can be decoded.

    Raises:
        OSError, ValueError, …: what Pillow raises for bytes that are no image (`DECODE_ERRORS`); likewise `decode`.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._opened: Image.Image | None = None
        if is_jpeg(content):
            try:
                self.height, self.width, colors, _ = simplejpeg.decode_jpeg_header(content)
            except ValueError:
                colors = "unknown"
            # Pillow warns of huge pictures and refuses larger ones.
            if colors in _PLAIN and self.width * self.height <= (Image.MAX_IMAGE_PIXELS or 0):
                self.scales: tuple[int, ...] = SCALES
                return
        self._opened = open_image(content)
        self.width, self.height = self._opened.size
        self.scales = SCALES if isinstance(self._opened, JpegImageFile) else SCALES[:1]

    def decode(self, scale: int = 1) -> Pixels | Image.Image:
        """The picture in red, green and blue, its sides divided by `scale`, one of `scales`, and rounded up.

        Returns:
            What the decoder makes: an array (height, width, 3) of simplejpeg or a picture of Pillow.
        """
        if self._opened is None:
            # The smallest picture of at least this size is what it makes.
            least = {"min_height": -(-self.height // scale), "min_width": -(-self.width // scale)} if scale > 1 else {}
            try:
                pixels_HWC: Pixels = simplejpeg.decode_jpeg(self._content, **least)
                return pixels_HWC
            except ValueError:
                self._opened = open_image(self._content)
        with self._opened as opened:
            if scale > 1:
                opened.draft("RGB", (self.width // scale, self.height // scale))
            return to_rgb(opened)
