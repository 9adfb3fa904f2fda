"""One sample on its way into a shard, or the reason why there is none."""

from dataclasses import dataclass
from typing import Final

from clips_pipeline.config import ConfigError

IMAGE_EXTENSIONS: Final = ("jpg", "png", "webp")
"""File name endings of images in a shard; a source renames `jpeg` to `jpg`."""

UNDECODABLE_IMAGE: Final = "undecodable_image"
MISSING_IMAGE: Final = "missing_image"
UNSUPPORTED_IMAGE: Final = "unsupported_image"
EMPTY_WEB_CAPTION: Final = "empty_web_caption"
EMPTY_SYNTHETIC_CAPTION: Final = "empty_synthetic_caption"
NOT_UTF8: Final = "not_utf8"
DUPLICATE_KEY: Final = "duplicate_key"
EMPTY_FILE: Final = "empty_file"
"""A member of zero bytes."""
TOO_MANY_PIXELS: Final = "too_many_pixels"
"""A decompression bomb, or simply larger than `max_pixels`."""
INTERLEAVED: Final = "interleaved"
"""Files of one sample that other samples' files part: other readers would see pieces of a sample as samples."""
UNREADABLE_SHARD: Final = "unreadable_shard"
TRUNCATED_SHARD: Final = "truncated_shard"
"""A tar file without its end, or with damage in it: what comes after cannot be found."""
NO_TABLE_ROW: Final = "no_table_row"
"""No synthetic caption in the tables of `recaption`."""
BAD_RECORD: Final = "bad_record"
"""A row or member of another shape than the format says, such as a JSON text that does not parse."""


@dataclass(frozen=True, slots=True)
class Record:
    """A complete sample, images still encoded.

    Attributes:
        key: unique within its split; becomes the file name in the tar, so it holds no '.' in its last part.
        image: the encoded bytes of a JPEG, PNG or WebP file.
        extension: one of `IMAGE_EXTENSIONS`.
        web_caption: the short, noisy text found with the image.
        synthetic_caption: the long text written by a captioning model.
        captions: all human captions, for retrieval as on MSCOCO; empty where there are none.
        label: class number for zero-shot classification, counted from 0.
        score: of the pair, such as the similarity that another model gives it; what a filter may ask for.
    """

    key: str
    image: bytes
    extension: str
    web_caption: str
    synthetic_caption: str
    captions: tuple[str, ...] = ()
    label: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class SampleFields:
    """Where captions and score of a sample stand: `txt` is the file KEY.txt, any other name a field of KEY.json.

    Attributes:
        web: where there is no KEY.txt, `org_caption` of KEY.json stands in for it, as in Recap-DataComp-1B.
        synthetic: the long caption.
        score: a number in KEY.json; None where nothing is to be read.
        needed: whether a sample without the two captions is bad; not so in sets that serve evaluation alone.
    """

    web: str = "txt"
    synthetic: str = "re_caption"
    score: str | None = None
    needed: bool = True

    def __post_init__(self) -> None:
        if not self.web or not self.synthetic or self.web == self.synthetic:
            raise ConfigError(f"web: {self.web!r} and synthetic {self.synthetic!r} must be two names")


@dataclass(frozen=True, slots=True)
class Skip:
    """A sample that cannot be used.

    Attributes:
        reason: one of the constants above; skips are counted by it.
        key: of the sample, or where it stands when it has none.
        detail: for the one who repairs the source, such as a path or a decoder's message.
    """

    reason: str
    key: str
    detail: str
