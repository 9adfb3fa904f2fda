"""Validation of records: the same rules for every source, applied before anything is written."""

import re

from PIL import Image

from clips_pipeline.data.images.formats import DECODE_ERRORS, RefusedImageError, UnsupportedImageError, open_image
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits, find_excess
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.writer import make_sample

# webdataset takes the last part up to its first '.' as the key; the other characters are unsafe in paths and lines.
_KEY = re.compile(r"[^\x00-\x1f\x7f./\\]+(/[^\x00-\x1f\x7f./\\]+)*")


def validate_record(
    record: Record, limits: SampleLimits = DEFAULT_LIMITS, *, captions_needed: bool = True
) -> tuple[int, int] | Skip:
    """Return width and height of the image, or the reason why `record` cannot be used.

    The image is decoded, at reduced scale if its format allows, unless it is above a limit by its header.

    Args:
        record: the sample.
        limits: limits on a sample.
        captions_needed: whether a sample without web and synthetic caption is bad.
    """
    fault = _find_text_fault(record, limits)
    if fault is not None:
        return fault
    if not _KEY.fullmatch(record.key):
        return Skip(records.BAD_RECORD, record.key, "a key may hold no '.', '\\', empty part or control character")
    if captions_needed and not any(text.strip() for text in record.web_captions):
        return Skip(records.EMPTY_WEB_CAPTION, record.key, "no text beside the image")
    if captions_needed and not any(text.strip() for text, _ in record.synthetic_captions):
        return Skip(records.EMPTY_SYNTHETIC_CAPTION, record.key, "no long caption")
    if record.extension not in records.IMAGE_EXTENSIONS:
        names = ", ".join(records.IMAGE_EXTENSIONS)
        return Skip(
            records.UNSUPPORTED_IMAGE, record.key, f"{record.extension!r} is not one of {names}; convert the file"
        )
    if not record.image:
        return Skip(records.EMPTY_FILE, record.key, f"{record.key}.{record.extension} has 0 bytes")
    try:
        with open_image(record.image, limits) as opened:
            width, height = opened.size
            # A JPEG is still read completely, but decoding takes much less arithmetic.
            opened.draft("RGB", (width // 8, height // 8))
            opened.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Skip(records.TOO_MANY_PIXELS, record.key, str(error))
    except UnsupportedImageError as error:
        return Skip(error.reason, record.key, f"{error}; convert the file")
    except RefusedImageError as error:
        return Skip(error.reason, record.key, str(error))
    except DECODE_ERRORS as error:
        return Skip(records.UNDECODABLE_IMAGE, record.key, f"{type(error).__name__}: {error}")
    return width, height


def _find_text_fault(record: Record, limits: SampleLimits) -> Skip | None:
    """Return why the key or a caption cannot be used, or None."""
    # Each question has two captions.
    asked = [text for _, *texts in record.questions for text in texts]
    kinds = (
        ("human", record.captions),
        ("web", record.web_captions),
        ("synthetic", record.synthetic_captions),
        ("question", record.questions),
    )
    for kind, found in kinds:
        if len(found) > limits.max_captions:
            detail = f"{len(found)} {kind} captions; max_captions is {limits.max_captions}"
            return Skip(records.TOO_MANY_CAPTIONS, _shown(record.key), detail)
    # The key is the name of files in a tar, where a long name stands in an extended header.
    if 4 * len(record.key) > limits.max_header_bytes // 2:
        return Skip(records.BAD_RECORD, _shown(record.key), f"a key of {len(record.key)} characters")
    synthetic = [text for text, _ in record.synthetic_captions]
    captions = (*record.web_captions, *synthetic, *record.captions, *asked)
    for caption in captions:
        excess = find_excess(caption, limits)
        if excess is not None:
            return Skip(excess[0], _shown(record.key), excess[1])
    for text in (record.key, *captions, *(captioner for _, captioner in record.synthetic_captions)):
        if not _is_utf8(text):
            return Skip(records.NOT_UTF8, _shown(record.key), repr(text[:120])[:120])
    # In JSON, a character takes at most six times its bytes.
    if 6 * (sum(map(len, captions)) + len(record.synthetic_caption)) > limits.max_json_bytes // 8:
        size = len(make_sample(record)["json"])
        if size > limits.max_json_bytes:
            detail = f"its captions take {size} bytes as JSON; max_json_bytes is {limits.max_json_bytes}"
            return Skip(records.TOO_LARGE, record.key, detail)
    return None


def _shown(key: str) -> str:
    return key[:1_000].encode("utf-8", "replace").decode()


def _is_utf8(text: str) -> bool:
    # Text read with `surrogateescape` has lone surrogates for bytes that are not UTF-8.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
