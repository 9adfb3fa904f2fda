"""A look at a few samples before anything is prepared: the page, and its content for the terminal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clips_pipeline.data.images.formats import DECODE_ERRORS, RefusedImageError
from clips_pipeline.data.images.thumbnail import Thumbnail, make_thumbnail
from clips_pipeline.data.limits import SampleLimits
from clips_pipeline.data.look.samples import SeenSample
from clips_pipeline.data.prepare.caption_statistics import is_list_as_text
from clips_pipeline.data.shards.records import NO_TABLE_ROW, Record
from clips_pipeline.reports.data.readings import EpochReading, ReadCaption, SampleReadings, other_texts
from clips_pipeline.reports.page import render, write_page

_LONGEST = 320  # pixels of a picture's longer side
_MANY_EQUAL = 0.5
_MANY_UNKNOWN = 0.05
_FEWEST_TO_JUDGE = 4
# A skipped sample may hold any number of captions of any length.
_MOST_UNREAD, _MOST_CAPTIONS = 10_000, 20


@dataclass(frozen=True)
class Card:
    """One sample as it is shown.

    Attributes:
        seen: the sample and what `prepare` would do with it.
        picture: a small picture; None if it cannot be decoded or is above a limit.
        captions: all captions with their lengths.
        epochs: what the model reads; empty if the sample would not be used.
    """

    seen: SeenSample
    picture: Thumbnail | None
    captions: Sequence[ReadCaption]
    epochs: Sequence[EpochReading]

    @property
    def image(self) -> str:
        """Size, format and bytes of the image."""
        record = self.seen.record
        if record is None:
            return "not read"
        width, height = (
            (self.picture.width, self.picture.height) if self.picture else (self.seen.width, self.seen.height)
        )
        size = f"{width} × {height} " if width else ""
        return f"{size}{record.extension.upper()}, {len(record.image):,} bytes"


@dataclass(frozen=True)
class Look:
    """What is shown.

    Attributes:
        facts: names and values: source, split, tokenizer, method.
        cards: the samples.
        findings: what is wrong with the captions of several samples, and the remedy.
        fragment: strategy and budget of the fragments.
    """

    facts: Sequence[tuple[str, str]]
    cards: Sequence[Card]
    findings: Sequence[str]
    fragment: str

    @property
    def fates(self) -> dict[str, int]:
        """Number of samples by what `prepare` would do with them."""
        return dict(Counter(f"{c.seen.fate}: {c.seen.reason}" if c.seen.reason else c.seen.fate for c in self.cards))


def make_card(seen: SeenSample, readings: SampleReadings, limits: SampleLimits) -> Card:
    """Return what is shown of a sample."""
    record = seen.record
    if record is None:
        return Card(seen, None, (), ())
    try:
        picture = make_thumbnail(record.image, _LONGEST, limits)
    except (RefusedImageError, *DECODE_ERRORS):
        picture = None
    if seen.fate == "skipped":
        return Card(seen, picture, _unread(record), ())
    return Card(seen, picture, readings.captions(record), readings.epochs(record))


def find_problems(cards: Sequence[Card], captions_needed: bool = True, captioners: Sequence[str] = ()) -> list[str]:
    """Return what is wrong with many of the samples, each with its remedy.

    Args:
        cards: the samples.
        captions_needed: whether each sample needs captions of both kinds.
        captioners: those whose captions the training is to read.
    """
    used = [card for card in cards if card.seen.fate == "used"]
    found = [
        f"{count} of {len(cards)} samples are skipped as {reason}: {detail}" for reason, count, detail in _skips(cards)
    ]
    unmatched = [card.seen.detail for card in cards if card.seen.reason == NO_TABLE_ROW]
    if 2 * len(unmatched) > len(cards):
        found.append(
            f"{len(unmatched)} of {len(cards)} samples have no row among those that were searched ({unmatched[0]}): compare "
            "source.recaption.on and .columns.key with the tables"
        )
    here = sorted({caption.captioner for card in used for caption in card.captions if caption.captioner})
    for name in dict.fromkeys(captioners) if used else ():
        if name not in here:
            found.append(
                f"train.captions names the captioner {name!r}, which has written no caption of these samples (captioners "
                f"here: {', '.join(here) or 'none has a name'}); correct the name"
            )
    if len(used) < _FEWEST_TO_JUDGE:
        return found
    for kind in ("web", "synthetic") if captions_needed else ():
        texts = [caption.text.strip() for card in used for caption in card.captions if caption.kind == kind]
        most, count = Counter(texts).most_common(1)[0] if texts else ("", 0)
        if count > _MANY_EQUAL * len(used):
            found.append(
                f"{count} {kind} captions are equal ({most[:60]!r}): name another field, or drop them by prepare.filters"
            )
        if texts and all(len(text) <= 1 for text in texts):
            found.append(f"the {kind} captions are single characters: the field holds a text where a list is expected")
        listed = list(filter(is_list_as_text, texts))
        if 2 * len(listed) > len(used):
            found.append(
                f"{len(listed)} {kind} captions are lists written as text ({listed[0][:60]!r}): write real lists (JSON or "
                "Parquet), or one text in each field"
            )
    ids = sum(caption.ids or 0 for card in used for caption in card.captions)
    unknown = sum(caption.unknown for card in used for caption in card.captions)
    if ids and unknown > _MANY_UNKNOWN * ids:
        found.append(
            f"{unknown / ids:.0%} of the ids are UNK: the vocabulary does not fit these captions; raise "
            "prepare.tokenizer.vocabulary_size, or use another tokenizer"
        )
    return found


def write_look(look: Look, path: Path) -> Path:
    """Write the page."""
    return write_page(look_html(look), path)


def look_html(look: Look) -> str:
    """Render `templates/data_look.html`."""
    return render("data_look.html", look=look, other_texts=other_texts)


def _skips(cards: Sequence[Card]) -> list[tuple[str, int, str]]:
    skipped = [card.seen for card in cards if card.seen.fate == "skipped"]
    counts = Counter(seen.reason for seen in skipped)
    first = {seen.reason: seen.detail for seen in reversed(skipped)}
    return [(reason, count, first[reason]) for reason, count in counts.most_common()]


def _unread(record: Record) -> list[ReadCaption]:
    """Return the captions of a sample that is skipped, shortened and without their ids."""
    found = [("web", "", text) for text in record.web_captions]
    found += [("synthetic", captioner, text) for text, captioner in record.synthetic_captions]
    found += [("human", "", text) for text in record.captions]
    return [
        ReadCaption(kind, captioner, text[:_MOST_UNREAD], len(text[:_MOST_UNREAD].split()))
        for kind, captioner, text in found[:_MOST_CAPTIONS]
    ]
