"""Data of the evaluation report besides metrics. `evaluate` writes it as JSON, `reports` renders it."""

import base64
from dataclasses import dataclass, field
from typing import Annotated

from clips_pipeline.config import FormerName
from clips_pipeline.data.images.thumbnail import make_thumbnail
from clips_pipeline.data.shards.records import Record
from clips_pipeline.evaluation.embedding_map import EmbeddingMap
from clips_pipeline.evaluation.metrics.zero_shot import Confusion

_THUMBNAIL = 144
_ALT_TEXT = 120  # characters


@dataclass(frozen=True)
class ReportImage:
    """A thumbnail: the key of its sample, a caption as alternative text, and WebP as base64."""

    key: str
    alt_text: Annotated[str, FormerName("about")]
    webp: str

    @classmethod
    def of(cls, record: Record) -> "ReportImage":
        """Make the thumbnail of a sample's image.

        Raises:
            Exception: one of `data.images.formats.DECODE_ERRORS`.
        """
        alt_text = next(iter((*record.captions, record.web_caption)), "")[:_ALT_TEXT]
        return cls(
            record.key,
            alt_text,
            base64.b64encode(make_thumbnail(record.image, _THUMBNAIL, record.limits).webp).decode(),
        )


@dataclass(frozen=True)
class ImageExample:
    """An image as a query.

    Attributes:
        image: the image.
        rank: number of wrong captions ranked before the first right one.
        captions: captions ranked first: (text, whether it belongs to the image).
        truth: the image's own captions.
    """

    image: Annotated[ReportImage, FormerName("picture")]
    rank: int
    captions: tuple[tuple[str, bool], ...]
    truth: tuple[str, ...]


@dataclass(frozen=True)
class CaptionExample:
    """A caption as a query.

    Attributes:
        caption: the query.
        rank: number of wrong images ranked before the right one.
        images: images ranked first: (image, whether the caption belongs to it).
        truth: the image that the caption belongs to.
    """

    caption: str
    rank: int
    images: Annotated[tuple[tuple[ReportImage, bool], ...], FormerName("pictures")]
    truth: ReportImage


@dataclass(frozen=True)
class CaptioningExample:
    """An image with its captions and the captions that the model writes.

    Attributes:
        image: the image.
        web, synthetic: captions of the sample.
        at_once: caption by parallel decoding; None for an autoregressive captioner.
        beam: caption by beam search.
        loss: loss of the synthetic caption in nats per token; None without a synthetic caption.
        at_once_words: the words of `at_once`, each with its probability; empty for an autoregressive captioner.
    """

    image: Annotated[ReportImage, FormerName("picture")]
    web: str
    synthetic: str
    at_once: str | None
    beam: str
    loss: float | None
    at_once_words: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class QuestionExample:
    """A compositional question about an image, and the model's answer.

    Attributes:
        image: the image.
        subset: what the question is about.
        caption: the true caption.
        negative: the other one.
        right: whether the model prefers the true one.
    """

    image: ReportImage
    subset: str
    caption: str
    negative: str
    right: bool

    @property
    def preferred_first(self) -> tuple[tuple[str, bool], tuple[str, bool]]:
        """Both captions, (text, whether it is true): first the one that the model prefers; of a tie, the false one."""
        captions = (self.caption, True), (self.negative, False)
        return captions if self.right else captions[::-1]


@dataclass(frozen=True)
class ReportData:
    """Report data of one evaluation.

    Attributes:
        set_name: name of the set in the metric keys.
        chance: chance level by metric key; not every metric has one.
        worst_images, worst_captions: queries with the most wrong answers before the right one, worst first.
        even_images, even_captions: queries evenly spaced over the set, independent of their results; worst first.
        captioned: the evenly spaced images with written captions, largest loss first; empty without a captioner.
        embedding_map: two-dimensional map of embeddings; None with too few images.
        confusion: confusion counts of zero-shot classification; None without classes.
        questions: compositional questions, as many of each subset, evenly spaced over the set.
    """

    set_name: str
    chance: dict[str, float] = field(default_factory=dict)
    worst_images: tuple[ImageExample, ...] = ()
    worst_captions: tuple[CaptionExample, ...] = ()
    even_images: tuple[ImageExample, ...] = ()
    even_captions: tuple[CaptionExample, ...] = ()
    captioned: tuple[CaptioningExample, ...] = ()
    embedding_map: EmbeddingMap | None = None
    confusion: Confusion | None = None
    questions: tuple[QuestionExample, ...] = ()
