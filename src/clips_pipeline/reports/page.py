"""What all HTML reports share: one file that needs nothing else, readable on a phone, in the dark and on paper.

Whatever comes from data goes through `text`: captions, keys and reasons are foreign text.
"""

import base64
import re
import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from clips_pipeline.reports.style import STYLE

_MEDIA = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}

# Blanks that are meant to be seen as such; other control characters get a name.
_BLANKS = "\t\n\r"

_SUMMARY = ("<!-- summary -->", "<!-- end of summary -->")

# No script runs and nothing is fetched, even if a text should ever escape the escaping.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, summary: str, body: str) -> str:
    """A whole HTML page.

    Args:
        title: plain text.
        summary: HTML that stands first and makes sense alone; `summary_of` finds it again.
        body: the HTML that follows.
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        f"<title>{text(title)}</title><style>{STYLE}</style>"
    )
    main = f"<h1>{text(title)}</h1>\n{_SUMMARY[0]}\n{summary}\n{_SUMMARY[1]}\n{body}"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{main}\n</body>\n</html>\n'


def summary_of(html: str) -> str:
    """The summary of a page that `page` made, as HTML; empty where there is none."""
    # Escaped text holds no "<", so the marks are ours.
    return html.partition(_SUMMARY[0])[2].partition(_SUMMARY[1])[0].strip()


def contents(sections: Mapping[str, str]) -> str:
    """Sections under their titles, with links to each before them.

    Args:
        sections: HTML by title; titles are plain text of ours.
    """
    links = " ".join(f'<a href="#{_anchor(name)}">{text(name)}</a>' for name in sections)
    parts = [f'<h2 id="{_anchor(name)}">{text(name)}</h2>\n{html}' for name, html in sections.items()]
    return "\n".join([f"<nav>{links}</nav>", *parts])


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def write_page(html: str, path: Path) -> Path:
    """Write it aside and rename it; folders above are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(html, encoding="utf-8")
    aside.replace(path)
    return path


def text(value: object, most: int | None = None) -> str:
    """Foreign text as HTML, also within an attribute in double quotes.

    Control characters, those that turn the direction of writing and halves of characters are spelled out as `[U+202E]`, so
    that they are seen and do nothing.

    Args:
        value: shown as `str` shows it.
        most: characters; what is longer is cut, and its length told.
    """
    whole = str(value)
    shown = whole if most is None or len(whole) <= most else whole[:most]
    seen = escape(visible(shown))
    return seen if shown is whole else f"{seen}… ({number(len(whole))} characters)"


def visible(foreign: str) -> str:
    """Foreign text as plain text in which nothing is hidden, as `text` does it; not escaped."""
    return "".join(map(_visible, foreign))


def _visible(letter: str) -> str:
    harmless = letter in _BLANKS or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    # Joiners make letters of many scripts and pictures of families; a soft hyphen does no harm either.
    return letter if harmless or letter in "\u200c\u200d\u00ad" else f"[U+{ord(letter):04X}]"


def bdi(value: object, most: int | None = None) -> str:
    """As `text`, and what is written from right to left does not disturb its surroundings."""
    return f"<bdi>{text(value, most)}</bdi>"


def number(value: float) -> str:
    """`1,234,567`; what is no integer with three digits: `0.123`, `12.3`, `123`."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def share(part: float, whole: float) -> str:
    """`12.3 %`; a dash where there is nothing to divide. What occurs is never shown as 0, nor what lacks as all."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def size(count: float) -> str:
    """Bytes as `1.2 MB`, in powers of 1,000."""
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        # What would be rounded to 1000 belongs to the next unit.
        if count < 999.5:
            break
        count, unit = count / 1000, larger
    return f"{number(float(count)) if unit != 'B' else round(count)} {unit}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, foreign: Sequence[int] = ()) -> str:
    """A table that scrolls within itself where the page is narrow.

    Args:
        head: of the columns, plain text.
        rows: cells as HTML; the first of each is the head of the row. Columns of figures stand to the right.
        caption: plain text.
        foreign: columns of text that may break anywhere.
    """
    figures = [bool(rows) and all(_is_figure(row[i]) for row in rows) for i in range(len(head))]
    heads = "".join(
        f'<th scope="col"{_class("number" if i and figures[i] else "")}>{text(name)}</th>'
        for i, name in enumerate(head)
    )
    body = []
    for row in rows:
        cells = "".join(
            f"<td{_class('number' if figures[i] else 'foreign' if i in foreign else '')}>{cell}</td>"
            for i, cell in enumerate(row)
            if i
        )
        body.append(f'<tr><th scope="row">{row[0]}</th>{cells}</tr>')
    told = text(caption)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{told}"><table><caption><span>{told}</span></caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


_FIGURE = re.compile(r"(?:[▲▼] )?(?:[<>] )?[-+]?[\d,.]+(?: (?:%|[kMGT]?B))?(?: (?:to|:) [-+]?[\d,.]+)?|–?")


def _is_figure(cell: str) -> bool:
    return _FIGURE.fullmatch(cell.replace("&lt;", "<").replace("&gt;", ">")) is not None


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def picture(data: bytes, extension: str, alt: str, name: str = "") -> str:
    """An image that stands in the page itself.

    Args:
        data: encoded.
        extension: jpg, png or webp.
        alt: plain text for those who do not see it.
        name: of a class of the style sheet.
    """
    return (
        f'<img{_class(name)} alt="{text(alt)}" src="data:{_MEDIA[extension]};base64,{base64.b64encode(data).decode()}">'
    )
