"""Records (samples before they are written) and skip reasons."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Final, TypeGuard

from clips_pipeline.config import ConfigError, LaterField
from clips_pipeline.data.limits import CAPTION_TOO_LONG as CAPTION_TOO_LONG
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.limits import TOO_LARGE as TOO_LARGE
from clips_pipeline.data.limits import TOO_MANY_CAPTIONS as TOO_MANY_CAPTIONS
from clips_pipeline.data.limits import TOO_MANY_PIXELS as TOO_MANY_PIXELS
from clips_pipeline.data.limits import UNDECODABLE_IMAGE as UNDECODABLE_IMAGE
from clips_pipeline.data.limits import UNSUPPORTED_IMAGE as UNSUPPORTED_IMAGE
from clips_pipeline.data.limits import WORD_TOO_LONG as WORD_TOO_LONG
from clips_pipeline.data.shards.caption_questions import CaptionQuestion as CaptionQuestion
from clips_pipeline.text.captions import Caption as Caption

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
        web_captions: the short, noisy texts found with the image; empty if there is none.
        synthetic_captions: the long texts written by captioning models; empty if there is none.
        captions: all human captions, for retrieval as on MSCOCO; may be empty.
        label: class number for zero-shot classification, from 0.
        score: a number for the pair, such as an image–text similarity, for `min_score` of the filters.
        questions: compositional questions for the evaluation; training does not read them.
        limits: limits of the folder of shards it was read from, for whoever decodes the image.
    """

    key: str
    image: bytes
    extension: str
    web_captions: tuple[str, ...]
    synthetic_captions: tuple[Caption, ...]
    captions: tuple[str, ...] = ()
    label: int | None = None
    score: float | None = None
    questions: tuple[CaptionQuestion, ...] = ()
    limits: SampleLimits = field(default=DEFAULT_LIMITS, compare=False, repr=False)

    @property
    def web_caption(self) -> str:
        """The first web caption; empty if there is none."""
        return self.web_captions[0] if self.web_captions else ""

    @property
    def synthetic_caption(self) -> str:
        """Text of the first synthetic caption; empty if there is none."""
        return self.synthetic_captions[0].text if self.synthetic_captions else ""


Names = str | tuple[str, ...]
"""Names of the fields of one kind of caption: one, or several whose captions are all used."""

CaptionerNames = Names | dict[str, str]
"""The same for synthetic captions; a mapping gives the captioner of each field: `{captioner: field}`."""


@dataclass(frozen=True)
class SampleFields:
    """Names of the fields that hold captions and score: `txt` is the file KEY.txt, others are fields of KEY.json.

    A field may hold one text or several (`data.shards.caption_values`).

    Attributes:
        web: the web caption, or a list of fields; without KEY.txt, `org_caption` of KEY.json is used, as in
            Recap-DataComp-1B.
        synthetic: the synthetic caption; a list of fields, each named after its captioner; or a mapping from captioners to
            fields.
        score: a number in KEY.json; None reads no score.
        needed: whether a sample without the two captions is bad; false for data that is only for evaluation.
        keys_repeat: whether each shard numbers its samples again, as those of `pixparse/cc3m-wds` do; then the name of the
            shard is put before each key.
    """

    web: Names = "txt"
    synthetic: CaptionerNames = "re_caption"
    score: str | None = None
    needed: bool = True
    keys_repeat: Annotated[bool, LaterField()] = False

    def __post_init__(self) -> None:
        web, synthetic = field_names(self.web), [name for _, name in captioner_fields(self.synthetic)]
        if not (web and synthetic and all(web) and all(synthetic)) or set(web) & set(synthetic):
            raise ConfigError(f"web: {self.web!r} and synthetic {self.synthetic!r} must be two different names")
        for names in (web, synthetic):
            repeated = next((name for name in names if names.count(name) > 1), None)
            if repeated is not None:
                raise ConfigError(f"fields: {repeated!r} is named twice; name it once")

    @property
    def captioners(self) -> tuple[str, ...]:
        """Captioners that are named here; empty if they are unknown."""
        return captioner_names(self.synthetic)


def field_names(names: Names) -> list[str]:
    """Return one or several names as a list."""
    return [names] if isinstance(names, str) else list(names)


def captioner_fields(names: CaptionerNames) -> list[tuple[str, str]]:
    """Return pairs of captioner and field. One field alone has no named captioner, in a list its own name is used."""
    if isinstance(names, str):
        return [("", names)]
    return list(names.items()) if isinstance(names, dict) else [(name, name) for name in names]


def captioner_names(names: CaptionerNames) -> tuple[str, ...]:
    """Return the captioners that names of fields name; empty if they are unknown."""
    return tuple(captioner for captioner, _ in captioner_fields(names) if captioner)


def captioner_order(names: CaptionerNames | None) -> dict[str, list[str]]:
    """Return what a fingerprint needs besides sorted keys: the captioners of a mapping in order; empty without a mapping."""
    return {"captioners": list(names)} if isinstance(names, dict) else {}


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
