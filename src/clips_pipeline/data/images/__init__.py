"""Encoded images to pixels: decoding, color, crops, thumbnails."""

__all__ = ["color", "color_batch", "decode", "formats", "thumbnail", "transforms"]
