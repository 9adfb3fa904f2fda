"""Rendering of the comparison of two runs: tables for the terminal, and an HTML page with the curves overlaid."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from clips_pipeline.io.terminal import safe_text
from clips_pipeline.reports.figure import SERIES, SOFT, Chart, svg
from clips_pipeline.reports.model.training_curves import thinned
from clips_pipeline.reports.page import format_number, render, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_ROWS = 10
"""Rows of a section in the terminal; the page has all of them."""
_FEW_POINTS = 12
SAME = "the same"
"""What a section says whose values are all equal; the terminal leaves it out."""


@dataclass(frozen=True)
class Difference:
    """One thing that differs: its name, the values of A and B, and a note."""

    name: str
    a: str
    b: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One kind of differences.

    Attributes:
        title: such as "parameters".
        differences: what differs, the most important first.
        about: what is the same, or unknown.
    """

    title: str
    differences: Sequence[Difference]
    about: str


@dataclass(frozen=True)
class Overlay:
    """A curve of both runs.

    Attributes:
        title: name of the curve.
        a: values of A by step.
        b: values of B by step.
        parts_at: first common step with different values; None if there is none.
        samples_of_a_step: batch sizes of A and B where they differ; then the figure is by samples.
    """

    title: str
    a: Mapping[int, float]
    b: Mapping[int, float]
    parts_at: int | None
    samples_of_a_step: tuple[int, int] | None = None


@dataclass(frozen=True)
class RunComparison:
    """How two runs differ.

    Attributes:
        names: what the user called A and B.
        places: run folder or MLflow run of each.
        verdict: sentences, the most important first.
        sections: differences by kind.
        overlays: curves of both.
        histories: starts and stops of each, one line each.
    """

    names: tuple[str, str]
    places: tuple[str, str]
    verdict: Sequence[str]
    sections: Sequence[Section]
    overlays: Sequence[Overlay]
    histories: tuple[Sequence[str], Sequence[str]]


def show_run_comparison(found: RunComparison, console: Console) -> None:
    """Print verdict, differences and history. Names and values are text of others: control characters are neutralized."""
    for sentence in found.verdict:
        console.print(Text(safe_text(sentence), style="bold" if sentence == found.verdict[0] else ""))
    for section in found.sections:
        if section.differences or section.about != SAME:
            console.print()
            console.print(_section(section))
    for letter, lines in zip("AB", found.histories, strict=True):
        console.print(Text(f"\nhistory of {letter}", style="italic"))
        console.print(Text(safe_text("\n".join(f"  {line}" for line in lines) or "  not recorded")))


def write_run_comparison(found: RunComparison, path: Path) -> Path:
    """Write the page."""
    return write_page(run_comparison_html(found), path)


def run_comparison_html(found: RunComparison) -> str:
    """Render `templates/run_comparison.html`."""
    drawn = [chart for overlay in found.overlays if (chart := _chart(overlay)) is not None]
    return render("run_comparison.html", found=found, drawn=drawn, same_text=SAME)


def _section(section: Section) -> RenderableType:
    title = Text(section.title, style="bold")
    about = Text(safe_text(f"  {section.about}")) if section.about else None
    if not section.differences:
        return Group(title, *([about] if about else []))
    notes = any(one.note for one in section.differences)
    table = Table(
        *(Column(name, overflow="fold") for name in ("", "A", "B", *(["note"] if notes else []))),
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    for one in section.differences[:_MAX_ROWS]:
        cells = (one.name, one.a, one.b, *([one.note] if notes else []))
        table.add_row(*(Text(safe_text(cell)) for cell in cells))
    hidden = len(section.differences) - _MAX_ROWS
    more = [Text(f"  and {hidden} more, on the page")] if hidden > 0 else []
    return Group(title, *([about] if about else []), table, *more)


def _chart(overlay: Overlay) -> Chart | None:
    by_samples = overlay.samples_of_a_step is not None
    curves = [
        (name, [(step * scale, value) for step, value in sorted(points.items())])
        for name, points, scale in zip("AB", (overlay.a, overlay.b), overlay.samples_of_a_step or (1, 1), strict=True)
        if points
    ]
    if not curves:
        return None

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for (name, points), color, style in zip(curves, SERIES, ("-", "--"), strict=False):
            step_P, mean_P, _, _ = thinned(points)
            axes.plot(
                step_P,
                mean_P,
                color=color,
                linestyle=style,
                linewidth=1.4,
                marker="o" if len(points) <= _FEW_POINTS else None,
                markersize=3,
                label=name,
            )
        if overlay.parts_at is not None and not by_samples:
            axes.axvline(overlay.parts_at, color=SOFT, linestyle=":", linewidth=1)
        axes.set_xlabel("samples" if by_samples else "step")
        figure.legend(loc="outside upper left", ncols=2, handlelength=2.4)

    summary = "; ".join(_ends(curves))
    parts = "" if overlay.parts_at is None else f"from step {overlay.parts_at:,} the values differ"
    return Chart(svg(draw, f"{overlay.title} of A and B: {summary}"), overlay.title, f"{summary}.", parts)


def _ends(curves: Sequence[tuple[str, list[tuple[int, float]]]]) -> Iterator[str]:
    for name, points in curves:
        yield f"{name} from {format_number(points[0][1])} to {format_number(points[-1][1])}"
