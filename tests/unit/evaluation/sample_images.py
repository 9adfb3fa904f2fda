"""Generated images."""

import io

from PIL import Image


def png(color="red", size=(8, 8)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return stream.getvalue()
