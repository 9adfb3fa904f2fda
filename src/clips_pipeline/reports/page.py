"""Layout of all HTML reports: Jinja2 environment with autoescape, and formatting of numbers.

A page is a single self-contained file for phones, dark mode and print. Captions, keys and reasons are untrusted text: template
output is escaped, and characters that hide or reorder text are written as code points.
"""

import base64
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clips_pipeline.io.atomic import write_text
from clips_pipeline.io.terminal import is_hidden

_MEDIA = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}

# Whitespace, which HTML collapses.
_HARMLESS = "\t\n\r"
# Noncharacters: an SVG file with one of them cannot be parsed.
_NO_CHARACTERS = "\ufffe\uffff"

_SUMMARY = ("<!-- summary -->", "<!-- end of summary -->")


@cache
def environment() -> Environment:
    """Return the Jinja2 environment with the templates of this package and their filters."""
    environment = Environment(
        loader=PackageLoader("clips_pipeline.reports"),
        autoescape=True,
        extensions=["jinja2.ext.do"],
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": format_number,
        "percent": format_percent,
        "bytes": format_bytes,
        "shorten": shorten,
        "data_url": data_url,
        "median": median,
    }
    return environment


def render(template: str, **values: Any) -> str:
    """Render a page.

    Args:
        template: file name in `templates`.
        values: variables of the template. Text is escaped, except for `Markup`.

    Raises:
        jinja2.UndefinedError: the template uses a variable that is missing.
    """
    return environment().get_template(template).render(values)


def write_page(html: str, path: Path) -> Path:
    """Write a page atomically and create its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, html)
    return path


def summary_of(html: str) -> str:
    """Return the summary block of a page that extends `page.html`, as HTML; empty if it has none."""
    # Escaped text contains no "<", so the markers come from the template.
    return html.partition(_SUMMARY[0])[2].partition(_SUMMARY[1])[0].strip()


def escape_invisible(text: str) -> str:
    """Make hidden characters of untrusted text visible.

    Control characters, characters that change the text direction, and lone surrogates are replaced by code points such as
    `[U+202E]`.
    """
    return text if text.isprintable() else "".join(map(_escape_letter, text))


def shorten(value: object, most: int) -> str:
    """Truncate text to `most` characters and append the full length."""
    whole = str(value)
    return whole if len(whole) <= most else f"{whole[:most]}… ({format_number(len(whole))} characters)"


def format_number(value: float) -> str:
    """Format a number: integers as `1,234,567`, others with three significant digits: `0.123`, `12.3`, `123`."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_percent(part: float, whole: float) -> str:
    """Format a fraction as `12.3 %`; a dash if `whole` is 0. Only exact values are shown as 0 % and 100 %."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def format_bytes(count: float) -> str:
    """Format a number of bytes as `1.2 MB`, in powers of 1,000."""
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        # A value that rounds to 1000 belongs to the next unit.
        if count < 999.5:
            break
        count, unit = count / 1000, larger
    return f"{format_number(float(count)) if unit != 'B' else round(count)} {unit}"


def data_url(data: bytes, extension: str) -> str:
    """Return an encoded image as a data URL.

    Args:
        data: content of the image file.
        extension: jpg, png or webp.
    """
    return f"data:{_MEDIA[extension]};base64,{base64.b64encode(data).decode()}"


def _finalize(value: object) -> object:
    """Process every value that a template prints (called by Jinja2)."""
    return value if isinstance(value, Markup) else escape_invisible(str(value))


def _escape_letter(letter: str) -> str:
    hidden = is_hidden(letter) or letter in _NO_CHARACTERS
    return f"[U+{ord(letter):04X}]" if hidden and letter not in _HARMLESS else letter
