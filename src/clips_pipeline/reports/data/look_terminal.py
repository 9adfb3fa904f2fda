"""A look at a few samples in the terminal. All text of the data is neutralized: control characters are shown, not executed.

Array names end in their axes: H height, W width, C color.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from clips_pipeline.data.images.formats import open_image
from clips_pipeline.data.images.thumbnail import Thumbnail
from clips_pipeline.io.terminal import safe_text
from clips_pipeline.reports.data.data_look import Card, Look
from clips_pipeline.reports.data.readings import EpochReading, ReadCaption, ReadRow, other_texts

_PICTURE = 28  # columns and pixels; a cell holds two pixels, one above the other
_NARROW = 80  # columns below which there is no picture beside the text
_MOST_CAPTION, _MOST_READ, _MOST_HUMAN = 400, 200, 3
_UPPER_HALF = "▀"
_COLORS = {"used": "green", "filtered": "yellow", "skipped": "red"}


def show_look(look: Look, console: Console) -> None:
    """Print the samples and the findings."""
    for name, value in look.facts:
        console.print(Text(f"{name}: ", style="bold").append(_line(value, 2_000), style="not bold"))
    for number, card in enumerate(look.cards, 1):
        console.print(_card(number, card, look, console))
    console.print(Rule(style="dim"))
    console.print(Text(safe_text(", ".join(f"{count} {fate}" for fate, count in look.fates.items()))))
    for finding in look.findings:
        console.print(Text(f"! {_line(finding, 1_000)}", style="yellow"))


def half_blocks(picture: Thumbnail, longest: int = _PICTURE) -> Text:
    """Return a picture of half blocks: the color of a cell is its upper pixel, the background its lower one."""
    with open_image(picture.webp) as opened:
        small = opened.convert("RGB")
    small.thumbnail((longest, longest))
    pixels_HWC = np.asarray(small)
    text = Text()
    for row in range(0, len(pixels_HWC), 2):
        for column in range(pixels_HWC.shape[1]):
            pair = (_rgb(pixels) for pixels in pixels_HWC[row : row + 2, column])
            text.append(_UPPER_HALF, style=" on ".join(pair))
        text.append("\n")
    return text


def _rgb(pixel_C: NDArray[np.uint8]) -> str:
    return f"rgb({','.join(map(str, pixel_C.tolist()))})"


def _card(number: int, card: Card, look: Look, console: Console) -> RenderableType:
    seen = card.seen
    head = Text(f"{number}  ", style="bold").append(_line(seen.key, 200)).append(f"  {card.image}  ", style="not bold")
    reason = f": {_line(seen.reason, 100)}" if seen.reason else ""
    head.append(f"{seen.fate}{reason}", style=_COLORS[seen.fate])
    lines: list[Text] = []
    if seen.detail:
        lines.append(Text(_line(seen.detail, 600), style=_COLORS[seen.fate]))
    lines += [_caption(caption) for caption in _shown(card.captions)]
    lines += _readings(card.epochs, look.fragment)
    rule = Rule(head, align="left", style="dim")
    colors = console.color_system is not None and not console.no_color
    if card.picture is None or not colors or console.width < _NARROW:
        return Group(rule, *lines)
    table = Table.grid(padding=(0, 2))
    table.add_column(width=_PICTURE, no_wrap=True)
    table.add_column(ratio=1)
    table.add_row(half_blocks(card.picture), Group(*lines))
    return Group(rule, table)


def _shown(captions: Sequence[ReadCaption]) -> list[ReadCaption]:
    human = [caption for caption in captions if caption.kind == "human"]
    return [caption for caption in captions if caption.kind != "human"] + human[:_MOST_HUMAN]


def _caption(caption: ReadCaption) -> Text:
    name = f"{caption.kind} by {_line(caption.captioner, 60)}" if caption.captioner else caption.kind
    ids = "" if caption.ids is None else f", {_ids(caption.ids, caption.unknown)}"
    return Text(f"{name} ({_count(caption.words, 'word')}{ids}) ", style="bold").append(
        _line(caption.text, _MOST_CAPTION), style="not bold"
    )


def _readings(epochs: Sequence[EpochReading], fragment: str) -> list[Text]:
    if not epochs:
        return []
    first, lines = epochs[0], []
    if first.web is not None:
        lines.append(_row("text tower", first.web).append(f"\n  {_tokens(first.web)}", style="dim"))
    for reading in epochs:
        for row in reading.fragments:
            lines.append(_row(f"fragment, {fragment}, epoch {reading.epoch}", row, text=True))
    lines += [_row(f"text tower, epoch {one.epoch}", one.web, text=True) for one in other_texts(epochs) if one.web]
    if first.target is not None:
        lines.append(_row("captioner's target", first.target, text=True))
    return lines


def _row(name: str, row: ReadRow, *, text: bool = False) -> Text:
    numbers = _ids(row.ids, row.unknown) + (f", {row.cut} cut" if row.cut else "")
    line = Text().append(f"{name} ({numbers}) ", style="cyan")
    if text:
        line.append(_line(row.text, _MOST_READ))
    if row.cut:
        line.append(f" … lost: {_line(row.lost, 80)}", style="red")
    return line


def _ids(count: int, unknown: int) -> str:
    return _count(count, "id") + (f", {unknown} UNK" if unknown else "")


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _tokens(row: ReadRow) -> str:
    return _line(" ".join(f"{token.text}:{token.index}" for token in row.tokens), _MOST_READ) + f" PAD×{row.padding}"


def _line(text: str, most: int) -> str:
    """Return text of the data on one line, harmless, without secrets, and shortened."""
    shown = safe_text(" ".join(text[: 4 * most].split()))
    return shown if len(shown) <= most and len(text) <= 4 * most else f"{shown[:most]}…"
