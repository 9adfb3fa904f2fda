"""Records (samples before they are written) and skip reasons."""

import math
from dataclasses import dataclass, field
from typing import Final, TypeGuard

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import CAPTION_TOO_LONG as CAPTION_TOO_LONG
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.limits import TOO_LARGE as TOO_LARGE
from clips_pipeline.data.limits import TOO_MANY_CAPTIONS as TOO_MANY_CAPTIONS
from clips_pipeline.data.limits import TOO_MANY_PIXELS as TOO_MANY_PIXELS
from clips_pipeline.data.limits import UNDECODABLE_IMAGE as UNDECODABLE_IMAGE
from clips_pipeline.data.limits import UNSUPPORTED_IMAGE as UNSUPPORTED_IMAGE
from clips_pipeline.data.limits import WORD_TOO_LONG as WORD_TOO_LONG

IMAGE_EXTENSIONS: Final = ("jpg", "png", "webp")
"""Extensions of images in a shard; sources rename `jpeg` to `jpg`."""

MISSING_IMAGE: Final = "missing_image"
EMPTY_WEB_CAPTION: Final = "empty_web_caption"
EMPTY_SYNTHETIC_CAPTION: Final = "empty_synthetic_caption"
NOT_UTF8: Final = "not_utf8"
DUPLICATE_KEY: Final = "duplicate_key"
EMPTY_FILE: Final = "empty_file"
"""A file of zero bytes in a shard."""
INTERLEAVED: Final = "interleaved"
"""The files of a sample are separated by files of other samples; other readers would see several partial samples."""
UNREADABLE_SHARD: Final = "unreadable_shard"
TRUNCATED_SHARD: Final = "truncated_shard"
"""A tar file that is cut off or damaged; samples after the damage cannot be found."""
NO_TABLE_ROW: Final = "no_table_row"
"""No synthetic caption in the tables of `recaption`."""
TOO_SLOW: Final = "too_slow"
"""Longer than `watchdog.sample_seconds`; the process was ended."""
KILLED: Final = "killed"
"""Two processes were killed while they read or checked the sample, by a fault of a decoder or for want of memory."""
SHARD_TOO_SLOW: Final = "shard_too_slow"
"""Longer than `watchdog.shard_seconds`."""
SHARD_KILLED: Final = "shard_killed"
"""Two processes were killed before its first or after its last sample, or a source can pass a sample of it no more."""
BAD_RECORD: Final = "bad_record"
"""A row or file that does not follow the format, such as JSON that cannot be parsed."""


MAX_LABEL: Final = 2**31 - 1


def is_label(value: object) -> TypeGuard[int]:
    """Return whether a value from a foreign file can be a class number."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_LABEL


def parse_score(value: object) -> float | None:
    """Return a number from a foreign file as a float; None if it is no number, not finite, or too large for a float."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


@dataclass(frozen=True, slots=True)
class Record:
    """A complete sample before it is written; its image is still encoded.

    Attributes:
        key: unique within its split. It becomes the file name in the tar, so its last part contains no '.'.
        image: content of a JPEG, PNG or WebP file.
        extension: one of `IMAGE_EXTENSIONS`.
        web_caption: the short, noisy text found with the image.
        synthetic_caption: the long text written by a captioning model.
        captions: all human captions, for retrieval as on MSCOCO; may be empty.
        label: class number for zero-shot classification, from 0.
        score: a number for the pair, such as an image–text similarity, for `min_score` of the filters.
        limits: limits of the folder of shards it was read from, for whoever decodes the image.
    """

    key: str
    image: bytes
    extension: str
    web_caption: str
    synthetic_caption: str
    captions: tuple[str, ...] = ()
    label: int | None = None
    score: float | None = None
    limits: SampleLimits = field(default=DEFAULT_LIMITS, compare=False, repr=False)


@dataclass(frozen=True)
class SampleFields:
    """Names of the fields that hold captions and score: `txt` is the file KEY.txt, others are fields of KEY.json.

    Attributes:
        web: the web caption; without KEY.txt, `org_caption` of KEY.json is used, as in Recap-DataComp-1B.
        synthetic: the synthetic caption.
        score: a number in KEY.json; None reads no score.
        needed: whether a sample without the two captions is bad; false for data that is only for evaluation.
    """

    web: str = "txt"
    synthetic: str = "re_caption"
    score: str | None = None
    needed: bool = True

    def __post_init__(self) -> None:
        if not self.web or not self.synthetic or self.web == self.synthetic:
            raise ConfigError(f"web: {self.web!r} and synthetic {self.synthetic!r} must be two different names")


@dataclass(frozen=True, slots=True)
class Skip:
    """A skipped sample.

    Attributes:
        reason: one of the constants above; skips are counted by reason.
        key: key of the sample, or its location if it has no key.
        detail: what to repair, such as a path or a decoder's message.
    """

    reason: str
    key: str
    detail: str
