"""What an evaluation has to show besides numbers, as data: `evaluate` writes it as JSON, the reports draw it."""

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
    """A small image: the key of its sample, a caption for those who do not see it, and WebP as base64."""

    key: str
    about: str
    webp: str

    @classmethod
    def of(cls, record: Record) -> "Picture":
        """From a sample.

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
        rank: wrong captions before the first right one.
        captions: what the model puts first: (text, whether it belongs to the image).
        truth: its own captions.
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
        rank: wrong images before the right one.
        pictures: what the model puts first: (picture, whether the caption belongs to it).
        truth: the image that it belongs to.
    """

    caption: str
    rank: int
    pictures: tuple[tuple[Picture, bool], ...]
    truth: Picture


@dataclass(frozen=True)
class CaptioningExample:
    """An image with the captions it has and those the model writes.

    Attributes:
        picture: the image.
        web, synthetic: the captions it has.
        at_once: the likeliest word of every place; None where the captioner reads the words before.
        beam: the likeliest caption that a beam finds.
        loss: of the synthetic caption, in nats per token; None where the image has none.
    """

    picture: Picture
    web: str
    synthetic: str
    at_once: str | None
    beam: str
    loss: float | None


@dataclass(frozen=True)
class ReportData:
    """All that one evaluation shows.

    Attributes:
        set_name: as in the keys of the metrics.
        chance: by key of a metric, what a model that knows nothing reaches; not every metric has one.
        worst_images, worst_captions: the queries with most wrong answers before the right one, worst first.
        even_images, even_captions: queries evenly spaced over the set, not chosen by how they went; worst first.
        captioned: the evenly spaced images with the captioner's words, largest loss first; empty without a captioner.
        embedding_map: images and captions in a plane; None where there are too few.
        confusion: zero-shot classes taken for others; None without classes.
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
