"""Exceptions for damaged images. Imports no decoder, because a registered model does not need simplejpeg."""

from PIL import Image

DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, Image.DecompressionBombError)
"""Exceptions that Pillow raises for damaged files: OSError, and struct and value errors of its plug-ins."""
