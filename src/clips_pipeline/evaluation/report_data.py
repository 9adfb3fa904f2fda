"""Data of the evaluation report besides metrics. `evaluate` writes it as JSON, `reports` renders it."""

import base64
from dataclasses import dataclass, field

from clips_pipeline.data.images.thumbnail import make_thumbnail
from clips_pipeline.data.shards.records import Record
from clips_pipeline.evaluation.embedding_map import EmbeddingMap
from clips_pipeline.evaluation.metrics.zero_shot import Confusion

_THUMBNAIL = 144
_ABOUT = 120  # characters


@dataclass(frozen=True)
class Picture:
    """A thumbnail: the key of its sample, a caption as alternative text, and WebP as base64."""

    key: str
    about: str
    webp: str

    @classmethod
    def of(cls, record: Record) -> "Picture":
        """Make the thumbnail of a sample's image.

        Raises:
            Exception: one of `data.images.formats.DECODE_ERRORS`.
        """
        about = next(iter((*record.captions, record.web_caption)), "")[:_ABOUT]
        return cls(record.key, about, base64.b64encode(make_thumbnail(record.image, _THUMBNAIL).webp).decode())


@dataclass(frozen=True)
class ImageExample:
    """An image as a query.

    Attributes:
        picture: the image.
        rank: number of wrong captions ranked before the first right one.
        captions: captions ranked first: (text, whether it belongs to the image).
        truth: the image's own captions.
    """

    picture: Picture
    rank: int
    captions: tuple[tuple[str, bool], ...]
    truth: tuple[str, ...]


@dataclass(frozen=True)
class CaptionExample:
    """A caption as a query.

    Attributes:
        caption: the query.
        rank: number of wrong images ranked before the right one.
        pictures: images ranked first: (image, whether the caption belongs to it).
        truth: the image that the caption belongs to.
    """

    caption: str
    rank: int
    pictures: tuple[tuple[Picture, bool], ...]
    truth: Picture


@dataclass(frozen=True)
class CaptioningExample:
    """An image with its captions and the captions that the model writes.

    Attributes:
        picture: the image.
        web, synthetic: captions of the sample.
        at_once: caption by parallel decoding; None for an autoregressive captioner.
        beam: caption by beam search.
        loss: loss of the synthetic caption in nats per token; None without a synthetic caption.
    """

    picture: Picture
    web: str
    synthetic: str
    at_once: str | None
    beam: str
    loss: float | None


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
