"""Matplotlib figures as SVG that stands in a page and takes the page's colours, in the light, in the dark and on paper.

Matplotlib writes the colours below as they are; the page then puts its own variables in their places.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clips_pipeline.reports.page import text, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, LINE, BACK = "#010203", "#010204", "#010205", "#010206"
SERIES = tuple(f"#0103{number:02x}" for number in range(8))
"""Eight colours that can be told apart; the style sheet gives them for light and dark."""

_VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line", BACK: "--back"} | {
    color: f"--series-{place + 1}" for place, color in enumerate(SERIES)
}
_SETTINGS = {
    "svg.fonttype": "none",  # letters stay letters: small, searchable, in the reader's font
    "svg.hashsalt": "clips",  # the same figure gives the same bytes
    "text.parse_math": False,  # a dollar sign in foreign text is no formula
    "font.size": 9.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_FONT = re.compile(r"'DejaVu Sans'[^;\"]*")
_DROPPED = re.compile(r"<metadata>.*?</metadata>|<style .*?</style>|<!--.*?-->", re.DOTALL)


def svg(draw: Callable[["Figure"], None], described: str, *, size: tuple[float, float] = (4.0, 2.6)) -> str:
    """A figure as `<svg>`.

    Args:
        draw: draws on a figure, in the colours of this module.
        described: plain text for those who do not see it.
        size: width and height in inches of 72 units; small, so that letters stay readable where the page is narrow.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS), _missing_letters_are_boxes():  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(stream.getvalue(), described)


def label(foreign: object, most: int = 40) -> str:
    """Foreign text for a figure, short and with nothing hidden; `svg` escapes it."""
    shown = visible(str(foreign))
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _inline(whole: str, described: str) -> str:
    drawing = _DROPPED.sub("", whole[whole.index("<svg") :])
    box = re.search(r'viewBox="[^"]*"', drawing)
    inner = drawing[drawing.index(">") + 1 :]
    # Names of groups say nothing here; those of markers and clips must differ between the figures of a page.
    own = hashlib.sha256((described + inner).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    inner = re.sub(r'<g id="[^"]*"', "<g", inner)
    inner = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{own}-", inner)
    inner = _FONT.sub("system-ui, sans-serif", inner)
    for color, variable in _VARIABLES.items():
        inner = inner.replace(color, f"var({variable})")
    return f'<svg class="figure" {box[0] if box else ""} role="img" aria-label="{text(described)}">{inner.strip()}'


@contextmanager
def _missing_letters_are_boxes() -> Iterator[None]:
    """Matplotlib measures with its own font, which lacks most scripts; the reader's browser has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield
