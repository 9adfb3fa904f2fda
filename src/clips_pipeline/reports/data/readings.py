"""What text tower, captioner and tokenizer make of one sample: ids, tokens, fragments by epoch, and what is cut off."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clips_pipeline.data.shards.records import Record
from clips_pipeline.text.caption_rows import CaptionReader
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

Kind = Literal["text", "unknown", "special"]


@dataclass(frozen=True)
class Token:
    """One id of a row, and its piece of text."""

    text: str
    index: int
    kind: Kind


@dataclass(frozen=True)
class ReadRow:
    """A row that the model reads.

    Attributes:
        tokens: its ids without padding, special ids included.
        padding: number of PAD ids.
        text: what the ids say.
        ids: number of ids of text.
        unknown: number of them that are UNK.
        cut: number of ids that the row has lost; 0 if it holds the whole text.
        lost: the text of the lost ids.
    """

    tokens: tuple[Token, ...]
    padding: int
    text: str
    ids: int
    unknown: int
    cut: int = 0
    lost: str = ""


@dataclass(frozen=True)
class EpochReading:
    """The rows of one epoch: of the text tower, its fragments, and the captioner's target; None if the method reads none."""

    epoch: int
    web: ReadRow | None
    fragments: tuple[ReadRow, ...]
    target: ReadRow | None


@dataclass(frozen=True)
class ReadCaption:
    """A caption with its lengths.

    Attributes:
        kind: web, synthetic or human.
        captioner: model that wrote it; empty if unknown.
        text: the caption.
        words: number of words separated by white space.
        ids: number of ids; None for human captions, which training does not read.
        unknown: number of them that are UNK.
    """

    kind: str
    captioner: str
    text: str
    words: int
    ids: int | None = None
    unknown: int = 0


class SampleReadings:
    """Reads samples as a training does.

    Args:
        reader: makes the rows.
        epochs: number of epochs to show.
    """

    def __init__(self, reader: CaptionReader, epochs: int = 3) -> None:
        self._reader, self._epochs = reader, epochs

    def captions(self, record: Record) -> list[ReadCaption]:
        """Return all captions of a sample."""
        found = [self._caption("web", "", text) for text in record.web_captions]
        found += [self._caption("synthetic", captioner, text) for text, captioner in record.synthetic_captions]
        return found + [ReadCaption("human", "", text, len(text.split())) for text in record.captions]

    def epochs(self, record: Record) -> list[EpochReading]:
        """Return what the model reads of a sample in the first epochs."""
        texts = [*record.web_captions, *(text for text, _ in record.synthetic_captions)]
        bodies = [self._reader.tokenizer.body(text) for text in texts]
        readings = []
        for epoch in range(self._epochs):
            rows = self._reader.read(record.web_captions, record.synthetic_captions, epoch=epoch, key=record.key)
            web, target = (self._row(row, bodies) if row else None for row in (rows.web, rows.target))
            fragments = [row for row in (rows.fragment, *rows.more_fragments) if row]
            readings.append(EpochReading(epoch, web, tuple(self._row(row, bodies) for row in fragments), target))
        return readings

    def _caption(self, kind: str, captioner: str, text: str) -> ReadCaption:
        tokenizer = self._reader.tokenizer
        body = tokenizer.body(text)
        return ReadCaption(kind, captioner, text, len(text.split()), len(body), body.count(tokenizer.unk_id))

    def _row(self, row: Sequence[int], bodies: Sequence[Sequence[int]]) -> ReadRow:
        tokenizer = self._reader.tokenizer
        end = row.index(tokenizer.eos_id) if tokenizer.eos_id in row else len(row)
        kept = list(row[1:end])
        tokens = tuple(_token(tokenizer, index) for index in row if index != tokenizer.pad_id)
        padding = sum(index == tokenizer.pad_id for index in row)
        whole = next((body for body in bodies if len(body) > len(kept) and list(body[: len(kept)]) == kept), None)
        # A fragment that begins a caption is no cut row: only full rows, and shortened web captions, lose ids.
        if whole is None or not kept or (padding and len(kept) != self._reader.config.web_tokens):
            return ReadRow(tokens, padding, tokenizer.decode(row), len(kept), kept.count(tokenizer.unk_id))
        lost = whole[len(kept) :]
        unknown = kept.count(tokenizer.unk_id)
        return ReadRow(tokens, padding, tokenizer.decode(row), len(kept), unknown, len(lost), tokenizer.decode(lost))


def other_texts(epochs: Sequence[EpochReading]) -> list[EpochReading]:
    """Return the epochs in which the text tower reads another text than in the first one."""
    return [one for one in epochs if one.web and epochs[0].web and one.web.text != epochs[0].web.text]


def _token(tokenizer: Tokenizer, index: int) -> Token:
    special = {tokenizer.bos_id: "BOS", tokenizer.eos_id: "EOS", tokenizer.cls_id: "CLS"}
    if index in special:
        return Token(special[index], index, "special")
    if index == tokenizer.unk_id:
        return Token("UNK", index, "unknown")
    return Token(tokenizer.piece(index), index, "text")
