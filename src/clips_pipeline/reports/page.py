"""The frame of all HTML reports: Jinja2 with autoescape, one style sheet, and how numbers are written.

A page is one file that needs nothing else, readable on a phone, in the dark and on paper. Captions, keys and reasons are foreign
text: what a template prints is escaped, and characters that hide or reorder text are spelled out.
"""

import base64
import unicodedata
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clips_pipeline.io.atomic import write_text

_MEDIA = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}

# Blanks are meant to be seen as such. Joiners make letters of many scripts and pictures of families; a soft hyphen does no harm.
_HARMLESS = "\t\n\r\u200c\u200d\u00ad"
# No characters at all: an SVG that holds one cannot be read.
_NO_CHARACTERS = "\ufffe\uffff"

_SUMMARY = ("<!-- summary -->", "<!-- end of summary -->")


@cache
def environment() -> Environment:
    """The templates of this package, and the filters that they share."""
    made = Environment(
        loader=PackageLoader("clips_pipeline.reports"),
        autoescape=True,
        extensions=["jinja2.ext.do"],
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "number": format_number,
        "percent": format_percent,
        "bytes": format_bytes,
        "shorten": shorten,
        "data_url": data_url,
        "median": median,
    }
    return made


def render(template: str, **values: Any) -> str:
    """A whole page.

    Args:
        template: file name within `templates`.
        values: what it prints. Text is escaped; only `Markup` stands in the page as it is.

    Raises:
        jinja2.UndefinedError: the template asks for a value that is not there.
    """
    return environment().get_template(template).render(values)


def write_page(html: str, path: Path) -> Path:
    """Write it atomically; folders above are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, html)
    return path


def summary_of(html: str) -> str:
    """The summary of a page that extends `page.html`, as HTML; empty where there is none."""
    # Escaped text holds no "<", so the marks are the template's.
    return html.partition(_SUMMARY[0])[2].partition(_SUMMARY[1])[0].strip()


def escape_invisible(foreign: str) -> str:
    """Foreign text in which nothing is hidden.

    Control characters, those that turn the direction of writing and halves of characters are spelled out as `[U+202E]`, so
    that they are seen and do nothing.
    """
    return foreign if foreign.isprintable() else "".join(map(_escape_letter, foreign))


def shorten(value: object, most: int) -> str:
    """Text of at most so many characters; what is longer is cut, and its length told."""
    whole = str(value)
    return whole if len(whole) <= most else f"{whole[:most]}… ({format_number(len(whole))} characters)"


def format_number(value: float) -> str:
    """`1,234,567`; what is no integer with three digits: `0.123`, `12.3`, `123`."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_percent(part: float, whole: float) -> str:
    """`12.3 %`; a dash where there is nothing to divide. What occurs is never shown as 0, nor what lacks as all."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def format_bytes(count: float) -> str:
    """Bytes as `1.2 MB`, in powers of 1,000."""
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        # What would be rounded to 1000 belongs to the next unit.
        if count < 999.5:
            break
        count, unit = count / 1000, larger
    return f"{format_number(float(count)) if unit != 'B' else round(count)} {unit}"


def data_url(data: bytes, extension: str) -> str:
    """An encoded image as an address that holds it.

    Args:
        data: the file.
        extension: jpg, png or webp.
    """
    return f"data:{_MEDIA[extension]};base64,{base64.b64encode(data).decode()}"


def _finalize(value: object) -> object:
    """Jinja2 calls it for whatever a template prints."""
    return value if isinstance(value, Markup) else escape_invisible(str(value))


def _escape_letter(letter: str) -> str:
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") or letter in _NO_CHARACTERS
    return f"[U+{ord(letter):04X}]" if hidden and letter not in _HARMLESS else letter
