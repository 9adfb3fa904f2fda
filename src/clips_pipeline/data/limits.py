"""Limits on one sample, so that none costs more time or memory than its size explains.

Images, captions and tar files are data of others. Whatever is above a limit is skipped before it is read or decoded,
and counted under one of the reasons of this module. `prepare` records the limits in `index.json`; whoever reads the
folder later applies the same ones.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from annotated_types import Ge, Le

UNDECODABLE_IMAGE: Final = "undecodable_image"
UNSUPPORTED_IMAGE: Final = "unsupported_image"
TOO_MANY_PIXELS: Final = "too_many_pixels"
TOO_MANY_SCANS: Final = "too_many_scans"
TOO_LARGE: Final = "too_large"
"""A file of more bytes, or JSON of more levels, than the limit."""
CAPTION_TOO_LONG: Final = "caption_too_long"
WORD_TOO_LONG: Final = "word_too_long"
TOO_MANY_CAPTIONS: Final = "too_many_captions"

PILLOW_PIXELS: Final = 89_478_485
"""Pillow warns of images with more pixels and refuses twice as many."""


@dataclass(frozen=True)
class SampleLimits:
    """Limits on one sample; a sample above one of them is skipped.

    Attributes:
        max_pixels: pixels of an image, by its header. Decoding takes up to 21 bytes per pixel.
        max_jpeg_scans: scans of a JPEG; a progressive one has about ten.
        max_scanned_pixels: scans of a JPEG times its pixels, which bounds the time to decode it.
        max_image_bytes: bytes of an image file.
        max_caption_bytes: bytes of a caption in UTF-8, and of the text file of a sample.
        max_word_characters: characters in a row without white space, in a caption.
        max_captions: captions of one kind of one image: human, web or synthetic ones; also its questions.
        max_json_bytes: bytes of the JSON file of a sample.
        max_json_depth: levels of lists and objects in that file.
        max_header_bytes: bytes of one extended header of a tar file, which holds names and times; after a larger one,
            the shard counts as damaged.
    """

    max_pixels: Annotated[int, Ge(1), Le(PILLOW_PIXELS)] = 2**25
    max_jpeg_scans: Annotated[int, Ge(1), Le(10_000)] = 100
    max_scanned_pixels: Annotated[int, Ge(1), Le(2**36)] = 2**30
    max_image_bytes: Annotated[int, Ge(1), Le(2**31)] = 2**26
    max_caption_bytes: Annotated[int, Ge(1), Le(2**24)] = 2**16
    max_word_characters: Annotated[int, Ge(1), Le(2**24)] = 10_000
    max_captions: Annotated[int, Ge(1), Le(100_000)] = 100
    max_json_bytes: Annotated[int, Ge(64), Le(2**28)] = 2**20
    max_json_depth: Annotated[int, Ge(1), Le(500)] = 64
    max_header_bytes: Annotated[int, Ge(512), Le(2**20)] = 2**16


DEFAULT_LIMITS: Final = SampleLimits()
"""Limits where no folder of shards gives others: images and texts of a caller, a registered model."""


def limits_before_they_were_recorded() -> SampleLimits:
    """Return the limits for an index without any: the limit of pixels was higher then, the others did not exist."""
    return SampleLimits(max_pixels=PILLOW_PIXELS)


def find_excess(caption: str, limits: SampleLimits) -> tuple[str, str] | None:
    """Return the skip reason of a caption above a limit and a detail, or None. Lone surrogates count as three bytes."""
    # A character has at most four bytes; most captions are far below both limits.
    if 4 * len(caption) > limits.max_caption_bytes:
        count = len(caption.encode("utf-8", "surrogatepass"))
        if count > limits.max_caption_bytes:
            return CAPTION_TOO_LONG, f"{count} bytes; max_caption_bytes is {limits.max_caption_bytes}"
    if len(caption) > limits.max_word_characters:
        longest = max(map(len, caption.split()), default=0)
        if longest > limits.max_word_characters:
            return (
                WORD_TOO_LONG,
                f"{longest} characters without white space; max_word_characters is {limits.max_word_characters}",
            )
    return None
