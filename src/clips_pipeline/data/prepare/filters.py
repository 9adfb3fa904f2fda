"""Filters and other rules on which usable samples are taken. Every filter is off by default and counts what it drops.

Filters are independent of language: they test sizes, lengths, characters and equality.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from itertools import groupby
from typing import Annotated, Final, Literal

from annotated_types import Ge

from clips_pipeline.config import ConfigError, FormerName, Fraction, NonNegativeInt, PositiveInt
from clips_pipeline.data.shards.records import Record
from clips_pipeline.embeddings.lookup import load_keys, load_scores

TOO_SMALL: Final = "too_small"
ASPECT_RATIO: Final = "aspect_ratio"
WEB_LENGTH: Final = "web_length"
SYNTHETIC_LENGTH: Final = "synthetic_length"
WEB_CHARACTERS: Final = "web_characters"
SYNTHETIC_CHARACTERS: Final = "synthetic_characters"
IDENTICAL_CAPTIONS: Final = "identical_captions"
DUPLICATE_IMAGE: Final = "duplicate_image"
DUPLICATE_CAPTION: Final = "duplicate_caption"
LOW_SCORE: Final = "low_score"
NO_SCORE: Final = "no_score"
DROPPED_KEY: Final = "dropped_key"


@dataclass(frozen=True)
class CaptionFilter:
    """Conditions on every caption of one kind: a sample is dropped if one of them fails. Outer white space is ignored.

    Attributes:
        min_words: number of words separated by white space; for languages without spaces, use characters.
        max_words: number of words separated by white space.
        min_characters: length of the caption.
        max_characters: length of the caption.
        min_letter_fraction: letters, including combining marks, among all characters that are not white space.
        max_run: repetitions of one character in a row, such as `!!!!!!!!`.
        printable: whether to drop captions with control characters (except tabs and line ends) or replacement
            characters, which wrong decoding leaves.
    """

    min_words: NonNegativeInt | None = None
    max_words: PositiveInt | None = None
    min_characters: NonNegativeInt | None = None
    max_characters: PositiveInt | None = None
    min_letter_fraction: Annotated[Fraction | None, FormerName("min_letter_share")] = None
    max_run: PositiveInt | None = None
    printable: bool = False

    def __post_init__(self) -> None:
        for unit in ("words", "characters"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if low is not None and high is not None and low > high:
                raise ConfigError(f"min_{unit}: {low} is above max_{unit} {high}; lower it")

    def find_length_fault(self, caption: str) -> str | None:
        """Return why the length violates the filter, or None."""
        text = caption.strip()
        for count, low, high, unit in (
            (len(text.split()), self.min_words, self.max_words, "words"),
            (len(text), self.min_characters, self.max_characters, "characters"),
        ):
            if count < (low or 0) or (high is not None and count > high):
                return f"{count} {unit}"
        return None

    def find_character_fault(self, caption: str) -> str | None:
        """Return why the characters violate the filter, or None."""
        text = caption.strip()
        if self.printable and (found := _UNPRINTABLE.search(text)) is not None:
            return f"character U+{ord(found[0]):04X}"
        if self.max_run is not None:
            longest = max((sum(1 for _ in run) for _, run in groupby(text)), default=0)
            if longest > self.max_run:
                return f"{longest} times the same character in a row"
        if self.min_letter_fraction is not None:
            characters = "".join(text.split())
            letters = sum(unicodedata.category(sign)[0] in "LM" for sign in characters)
            if letters < self.min_letter_fraction * len(characters):
                return f"{letters} letters among {len(characters)} characters"
        return None


# C0 and C1 control characters except tab and line ends, and the replacement character of decoders.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")


@dataclass(frozen=True)
class FilterConfig:
    """Conditions on usable samples. Of duplicates, the first is kept.

    Attributes:
        min_side: shorter side of the image, in pixels.
        max_aspect: longer side of the image divided by the shorter side.
        web: conditions on the web caption.
        synthetic: conditions on the synthetic caption.
        identical_captions: drop samples whose synthetic captions all equal a web caption, ignoring outer white space.
        min_score: minimum score of the sample (`fields.score` of the source, or `score_table`); samples without a score are
            dropped too.
        score_table: table of embeddings of images and captions; the score is the cosine similarity of the image and its most
            similar caption there, by key.
        drop_table: Parquet file whose column `key` names samples to drop, such as one of `clips-pipeline dedup`.
        duplicate_images: drop samples whose image has the same bytes as an earlier one of the split.
        duplicate_captions: drop samples whose web caption equals an earlier one of the split, ignoring outer white
            space.
    """

    min_side: PositiveInt | None = None
    max_aspect: Annotated[float, Ge(1)] | None = None
    web: CaptionFilter = field(default_factory=CaptionFilter)
    synthetic: CaptionFilter = field(default_factory=CaptionFilter)
    identical_captions: bool = False
    min_score: float | None = None
    score_table: str | None = None
    drop_table: str | None = None
    duplicate_images: bool = False
    duplicate_captions: bool = False

    def __post_init__(self) -> None:
        if self.score_table is not None and self.min_score is None:
            raise ConfigError("score_table: no minimum; set min_score too, such as 0.2")

    def find_fault(self, record: Record, size: tuple[int, int]) -> tuple[str, str] | None:
        """Return the reason to drop a usable sample and a detail, or None. Duplicates are found by `dedup`.

        Args:
            record: the sample.
            size: width and height of its image.
        """
        short, long = sorted(size)
        if self.min_side is not None and short < self.min_side:
            return TOO_SMALL, f"{size[0]} x {size[1]}"
        if self.max_aspect is not None and long > self.max_aspect * short:
            return ASPECT_RATIO, f"{size[0]} x {size[1]}"
        if self.drop_table is not None and load_keys(self.drop_table).find(record.key) is not None:
            return DROPPED_KEY, f"named by {self.drop_table}"
        if self.min_score is not None:
            score = record.score if self.score_table is None else load_scores(self.score_table).find(record.key)
            if score is None:
                remedy = "set `fields.score` of the source to the name of the score, or min_score to null"
                return (
                    NO_SCORE,
                    remedy if self.score_table is None else f"{self.score_table} has no such key with a caption",
                )
            # Written this way, NaN fails too.
            if not score >= self.min_score:
                return LOW_SCORE, str(score)
        synthetic = tuple(caption.text for caption in record.synthetic_captions)
        for caption_filter, length, characters, captions in (
            (self.web, WEB_LENGTH, WEB_CHARACTERS, record.web_captions or ("",)),
            (self.synthetic, SYNTHETIC_LENGTH, SYNTHETIC_CHARACTERS, synthetic or ("",)),
        ):
            for reason, fault in (
                (length, caption_filter.find_length_fault),
                (characters, caption_filter.find_character_fault),
            ):
                for caption in captions:
                    if (found := fault(caption)) is not None:
                        return reason, f"{found}: {caption[:80]!r}"
        if self.identical_captions and has_identical_captions(record):
            return IDENTICAL_CAPTIONS, repr(record.web_caption[:80])
        return None


@dataclass(frozen=True)
class SampleRules:
    """Which samples are used; part of the fingerprint of the data.

    Attributes:
        interleaved: samples of shards in place whose files are separated by files of other samples: `leave_out`,
            because other readers see partial samples, or `keep`, because this project reads them whole, unless the
            files are far apart. In shards that are written, they are no longer interleaved.
        filters: conditions on usable samples.
    """

    interleaved: Literal["leave_out", "keep"] = "leave_out"
    filters: FilterConfig = field(default_factory=FilterConfig)


def has_identical_captions(record: Record) -> bool:
    """Return whether every synthetic caption equals a web caption, ignoring outer white space, and none is empty."""
    web = {text.strip() for text in record.web_captions} - {""}
    return bool(record.synthetic_captions) and all(text.strip() in web for text, _ in record.synthetic_captions)
