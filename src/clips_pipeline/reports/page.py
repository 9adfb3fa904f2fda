"""What all HTML reports share: one file that needs nothing else, readable on a phone, in the dark and on paper.

Whatever comes from data goes through `text`: captions, keys and reasons are foreign text.
"""

import base64
import re
import unicodedata
from collections.abc import Sequence
from html import escape
from pathlib import Path

_MEDIA = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}

# Blanks that are meant to be seen as such; other control characters get a name.
_BLANKS = "\t\n\r"

_SUMMARY = ("<!-- summary -->", "<!-- end of summary -->")

# No script runs and nothing is fetched, even if a text should ever escape the escaping.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #566074; --line: #d9dde6; --back: #fff; --card: #f5f6f9;
  --bar: #2f6fbd; --cut: #c2410c; --warn-back: #fff4e5; --warn: #8a3c00; --good: #00682f; --frame: #00a34a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8f0; --soft: #a5afc0; --line: #3a4354; --back: #14181f; --card: #1d232d;
  --bar: #6ea8f0; --cut: #ff9d63; --warn-back: #3a2710; --warn: #ffc78a; --good: #6fdc9b; --frame: #35c776; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #333; --line: #bbb; --back: #fff; --card: #fff;
  --bar: #2f6fbd; --cut: #c2410c; --warn-back: #fff; --warn: #8a3c00; --good: #00682f; --frame: #00a34a; }
  nav { display: none; } figure, article, tr, .warnings { break-inside: avoid; } h2 { break-after: avoid; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; color: var(--ink);
  background: var(--back); overflow-wrap: anywhere; }
h1 { line-height: 1.2; margin: 1rem 0 .5rem; } h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.5rem 0 .5rem; } a { color: var(--bar); } nav a { margin-right: 1rem; } small, .soft { color: var(--soft); }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; overflow-wrap: normal; } caption { text-align: left; color: var(--soft); padding: .25rem 0; }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 2rem); }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } tbody th { font-weight: 400; } td.foreign { overflow-wrap: anywhere; min-width: 8rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.warnings { background: var(--warn-back); color: var(--warn); border-left: 4px solid var(--warn); padding: .5rem 1rem;
  margin: 1rem 0; }
.warnings ul { margin: .25rem 0; padding-left: 1.25rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; } figure img, figure svg { max-width: 100%; height: auto; display: block; } figcaption { font-size: .9rem; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } svg .bar { fill: var(--bar); } svg .cut { fill: var(--cut); }
svg .axis { stroke: var(--line); } svg .mark { stroke: var(--cut); stroke-dasharray: 3 2; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(28rem, 100%), 1fr)); gap: 1rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .75rem; display: flex; gap: .75rem;
  overflow: clip; font-size: .9rem; min-width: 0; }
article > div { min-width: 0; flex: 1; }
article img { width: 8rem; height: 8rem; object-fit: contain; object-position: top left; flex: none; }
article p, article ul { margin: 0 0 .5rem; } article ul { padding-left: 1.25rem; } summary { cursor: pointer; font-weight: 600; }
@media (max-width: 30rem) { article { flex-direction: column; } }
.example { display: flex; gap: 1rem; align-items: flex-start; margin: 1rem 0; flex-wrap: wrap; }
.example img { height: 7rem; border: 4px solid transparent; border-radius: 4px; }
.right { color: var(--good); font-weight: 600; } img.right { border-color: var(--frame) !important; }
"""


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
        f"<title>{text(title)}</title><style>{_STYLE}</style>"
    )
    main = f"<h1>{text(title)}</h1>\n{_SUMMARY[0]}\n{summary}\n{_SUMMARY[1]}\n{body}"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{main}\n</body>\n</html>\n'


def summary_of(html: str) -> str:
    """The summary of a page that `page` made, as HTML; empty where there is none."""
    # Escaped text holds no "<", so the marks are ours.
    return html.partition(_SUMMARY[0])[2].partition(_SUMMARY[1])[0].strip()


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
    visible = escape("".join(map(_visible, shown)))
    return visible if shown is whole else f"{visible}… ({number(len(whole))} characters)"


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


_FIGURE = re.compile(r"(?:[<>] )?-?[\d,.]+(?: (?:%|[kMGT]?B))?|–?")


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
