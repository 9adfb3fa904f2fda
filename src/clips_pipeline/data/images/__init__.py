"""Encoded images to pixels: decoding, color, crops, thumbnails."""

__all__ = ["color", "decode", "formats", "thumbnail", "transforms"]
