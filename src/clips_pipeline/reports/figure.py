"""Matplotlib figures as inline SVG in the colors of the page, for light and dark mode and for print.

Figures are drawn in the placeholder colors below, which are then replaced by CSS variables.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from clips_pipeline.reports.page import escape_invisible

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

INK, SOFT, LINE = "#010203", "#010204", "#010205"
SERIES = tuple(f"#0103{number:02x}" for number in range(8))
"""Placeholders of eight distinguishable colors; style.css defines them for light and dark mode."""

_VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line"} | {
    color: f"--series-{place + 1}" for place, color in enumerate(SERIES)
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small files, searchable, in the font of style.css
    "text.parse_math": False,  # a dollar sign in a caption does not start a formula
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
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
_TOOLTIP = "tooltip:"


@dataclass(frozen=True)
class Chart:
    """A figure with its caption.

    Attributes:
        svg: the drawing.
        title: title of the caption.
        summary: what the figure shows, in words.
        about: how to read it.
    """

    svg: Markup
    title: str
    summary: str = ""
    about: str = ""


def svg(draw: Callable[["Figure"], None], description: str, *, size: tuple[float, float] = (4.0, 2.6)) -> Markup:
    """Draw a figure as `<svg>`. The same figure gives the same bytes.

    Args:
        draw: draws on a figure in the colors of this module.
        described: alternative text; must be unique within a page.
        size: width and height in inches of 72 units; small, so that text stays readable on narrow screens.
    """
    import matplotlib
    from matplotlib.figure import Figure

    description = escape_invisible(description)
    # Ids of markers and clip paths are digests with this salt, so they differ between the figures of a page.
    with matplotlib.rc_context(_SETTINGS | {"svg.hashsalt": description}), warnings.catch_warnings():
        # Matplotlib measures text with its own font, which lacks most scripts; browsers have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(ElementTree.fromstring(stream.getvalue()), description)  # noqa: S314 - written by Matplotlib


def label(text: object, most: int = 40) -> str:
    """Shorten untrusted text for a figure and make hidden characters visible; `svg` escapes it."""
    shown = escape_invisible(str(text))
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def set_tooltip(artist: "Artist", summary: str) -> None:
    """Set the tooltip that the browser shows on hover."""
    artist.set_gid(_TOOLTIP + escape_invisible(summary))


def _inline(root: ElementTree.Element, description: str) -> Markup:
    """Convert to inline SVG: no namespaces, group ids, metadata or style sheet; tooltips become `<title>` elements."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        for child in [child for child in element if child.tag.rpartition("}")[2] in ("metadata", "style")]:
            element.remove(child)
        if element.tag == "g":
            summary = element.attrib.pop("id", "")
            if summary.startswith(_TOOLTIP):
                title = ElementTree.Element("title")
                title.text = summary.removeprefix(_TOOLTIP)
                element.insert(0, title)
    root.attrib = {"class": "figure", "viewBox": root.attrib["viewBox"], "role": "img", "aria-label": description}
    drawn = ElementTree.tostring(root, encoding="unicode")
    for color, variable in _VARIABLES.items():
        drawn = drawn.replace(color, f"var({variable})")
    return Markup(drawn)  # noqa: S704 - ElementTree escapes all text
