"""One picture of many samples with all that is written about them; for any records, not only the embedded data."""

import io
import textwrap
from collections.abc import Iterable
from functools import cache
from os import PathLike
from pathlib import Path

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from clips_pipeline.shards.records import Record

_FONT = "DejaVu Sans Mono"  # comes with matplotlib
_WIDTH = 58  # letters per line beside a picture
_LINE = 0.13  # inches per line of text
_PICTURE = 1.7  # inches per side
_CAPTIONS = 5
_SHORTENED = 640  # letters of a caption, so that one endless caption does not crowd out the sheet


def contact_sheet(records: Iterable[Record], out_png: str | PathLike[str], *, columns: int = 2) -> Path:
    """Draw the records with web (W), synthetic (S) and human (H) captions, in their order, row by row.

    Args:
        records: a few, best under 50; their images may differ in size.
        out_png: where to write; folders above it are made.
        columns: samples per row.

    Returns:
        The path written.

    Raises:
        ValueError: no records, or no columns.
    """
    samples = list(records)
    if not samples or columns < 1:
        raise ValueError("a contact sheet needs at least one record and one column")
    texts = [_text(record) for record in samples]
    rows = [texts[at : at + columns] for at in range(0, len(texts), columns)]
    heights = [max(_PICTURE, *(_LINE * (text.count("\n") + 1) for text in row)) + 0.25 for row in rows]
    cell = _PICTURE + 0.3 + _WIDTH * 0.065
    width, height = cell * columns, sum(heights)
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    top = height - 0.12
    for row, row_height in enumerate(heights):
        for column, text in enumerate(rows[row]):
            left = column * cell + 0.12
            box = (left / width, (top - _PICTURE) / height, _PICTURE / width, _PICTURE / height)
            axes = figure.add_axes(box)
            with Image.open(io.BytesIO(samples[row * columns + column].image)) as image:
                axes.imshow(image.convert("RGB"), interpolation="nearest")
            axes.set_axis_off()
            figure.text(
                (left + _PICTURE + 0.12) / width,
                top / height,
                text,
                fontsize=7.5,
                family=_FONT,
                va="top",
                linespacing=1.25,
                parse_math=False,  # a price such as "$5 ... $9" is no formula
            )
        top -= row_height
    path = Path(out_png)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def _text(record: Record) -> str:
    label = "" if record.label is None else f"  label {record.label}"
    lines = [f"{record.key}{label}", *_wrapped("W", record.web_caption), *_wrapped("S", record.synthetic_caption)]
    for caption in record.captions[:_CAPTIONS]:
        lines += _wrapped("H", caption)
    return "\n".join(lines)


def _wrapped(mark: str, caption: str) -> list[str]:
    # Web captions hold anything; each letter that the font lacks would make matplotlib warn.
    drawable = _letters()
    plain = "".join(" " if letter.isspace() else letter if ord(letter) in drawable else "□" for letter in caption)
    short = textwrap.shorten(plain, _SHORTENED, placeholder=" ...")
    return textwrap.wrap(short, _WIDTH, initial_indent=f"{mark} ", subsequent_indent="  ") or [mark]


@cache
def _letters() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(_FONT)).get_charmap())
