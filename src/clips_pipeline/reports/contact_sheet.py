"""Samples of prepared data with all that is written about them, to look at."""

from collections.abc import Mapping, Sequence

from clips_pipeline.reports.page import bdi, number, picture
from clips_pipeline.reports.thumbnail import thumbnail
from clips_pipeline.shards.check import DECODE_ERRORS
from clips_pipeline.shards.records import Record

_THUMBNAIL = 256
_CAPTION_CHARACTERS = 1_000
_KEY_CHARACTERS = 300
_HUMAN_CAPTIONS = 10


def contact_sheet(examples: Mapping[str, Sequence[Record]]) -> str:
    """HTML of the samples by split; the first split is open, the others wait to be opened.

    Args:
        examples: any records, whatever their captions, keys and images hold.
    """
    parts = [
        "<p>Samples drawn at random, not chosen. Do the captions tell of the picture? Is the web caption a caption at all?</p>"
    ]
    for place, (name, records) in enumerate(examples.items()):
        cards = "".join(_card(record) for record in records)
        opened = "" if place else " open"
        parts.append(
            f"<details{opened}><summary>{bdi(name)}: {number(len(records))} samples</summary>"
            f'<div class="cards">{cards}</div></details>'
        )
    return "\n".join(parts)


def _card(record: Record) -> str:
    label = "" if record.label is None else f", label {number(record.label)}"
    people = "".join(f"<li>{bdi(caption, _CAPTION_CHARACTERS)}</li>" for caption in record.captions[:_HUMAN_CAPTIONS])
    more = len(record.captions) - _HUMAN_CAPTIONS
    return (
        f"<article>{_thumbnail(record)}<div><p><small>{bdi(record.key, _KEY_CHARACTERS)}{label}</small></p>"
        f"<p><strong>web</strong> {bdi(record.web_caption, _CAPTION_CHARACTERS)}</p>"
        f"<p><strong>synthetic</strong> {bdi(record.synthetic_caption, _CAPTION_CHARACTERS)}</p>"
        + (f"<p><strong>human</strong></p><ul>{people}</ul>" if people else "")
        + (f"<p>and {number(more)} more</p>" if more > 0 else "")
        + "</div></article>"
    )


def _thumbnail(record: Record) -> str:
    try:
        small = thumbnail(record.image, _THUMBNAIL)
    except DECODE_ERRORS as error:
        return f"<p><small>no picture: {type(error).__name__}</small></p>"
    return picture(small.webp, "webp", f"image of {record.key}, {small.width} × {small.height} pixels")
