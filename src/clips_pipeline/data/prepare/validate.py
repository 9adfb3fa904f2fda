"""Validation of records: the same rules for every source, applied before anything is written."""

import re

from PIL import Image

from clips_pipeline.data.images.formats import DECODE_ERRORS, UnsupportedImageError, open_image
from clips_pipeline.data.prepare.filters import MAX_PIXELS
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.records import Record, Skip

# webdataset takes the last part up to its first '.' as the key; the other characters are unsafe in paths and lines.
_KEY = re.compile(r"[^\x00-\x1f\x7f./\\]+(/[^\x00-\x1f\x7f./\\]+)*")


def validate_record(
    record: Record, max_pixels: int = MAX_PIXELS, *, captions_needed: bool = True
) -> tuple[int, int] | Skip:
    """Return width and height of the image, or the reason why `record` cannot be used.

    The image is decoded, at reduced scale if its format allows, unless its header gives more than `max_pixels`.
    """
    for text in (record.key, record.web_caption, record.synthetic_caption, *record.captions):
        if not _is_utf8(text):
            return Skip(records.NOT_UTF8, record.key.encode("utf-8", "replace").decode(), repr(text)[:120])
    if not _KEY.fullmatch(record.key):
        return Skip(records.BAD_RECORD, record.key, "a key may hold no '.', '\\', empty part or control character")
    if captions_needed and not record.web_caption.strip():
        return Skip(records.EMPTY_WEB_CAPTION, record.key, "no text beside the image")
    if captions_needed and not record.synthetic_caption.strip():
        return Skip(records.EMPTY_SYNTHETIC_CAPTION, record.key, "no long caption")
    if record.extension not in records.IMAGE_EXTENSIONS:
        names = ", ".join(records.IMAGE_EXTENSIONS)
        return Skip(
            records.UNSUPPORTED_IMAGE, record.key, f"{record.extension!r} is not one of {names}; convert the file"
        )
    if not record.image:
        return Skip(records.EMPTY_FILE, record.key, f"{record.key}.{record.extension} has 0 bytes")
    try:
        with open_image(record.image) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                return Skip(records.TOO_MANY_PIXELS, record.key, f"{width} x {height}, max_pixels is {max_pixels}")
            # A JPEG is still read completely, but decoding takes much less arithmetic.
            opened.draft("RGB", (width // 8, height // 8))
            opened.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Skip(records.TOO_MANY_PIXELS, record.key, str(error))
    except UnsupportedImageError as error:
        return Skip(records.UNSUPPORTED_IMAGE, record.key, f"{error}; convert the file")
    except DECODE_ERRORS as error:
        return Skip(records.UNDECODABLE_IMAGE, record.key, f"{type(error).__name__}: {error}")
    return width, height


def _is_utf8(text: str) -> bool:
    # Text read with `surrogateescape` has lone surrogates for bytes that are not UTF-8.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
