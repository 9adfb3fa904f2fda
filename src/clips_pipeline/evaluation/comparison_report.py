"""A comparison for people: lines for a terminal, and one HTML page."""

from collections.abc import Sequence
from pathlib import Path

from clips_pipeline.evaluation.comparison import Difference
from clips_pipeline.evaluation.items import higher_is_better
from clips_pipeline.reports.page import number, page, table, text, write_page

HEAD = ("metric", "A", "B", "B − A", "interval", "B better", "images won : lost", "sign test p")


def cells(difference: Difference) -> tuple[str, ...]:
    """One row of the table, plain text under `HEAD`."""
    return (
        difference.metric + ("" if higher_is_better(difference.metric) else " (less is better)"),
        f"{difference.a:.4f}",
        f"{difference.b:.4f}",
        f"{difference.difference:+.4f}",
        f"{difference.low:+.4f} to {difference.high:+.4f}",
        f"{difference.share_better:.1%}",
        f"{difference.wins} : {difference.losses}",
        f"{difference.sign_p:.2g}",
    )


def verdict(difference: Difference, confidence: float) -> str:
    """What may be said about one metric, in a sentence."""
    if difference.low <= 0 <= difference.high:
        return f"{difference.metric}: no difference can be told from chance at {confidence:.0%}."
    better = (difference.difference > 0) == higher_is_better(difference.metric)
    return f"{difference.metric}: {'B' if better else 'A'} is better; the {confidence:.0%} interval leaves out 0."


def write_comparison(
    differences: Sequence[Difference], names: tuple[str, str], images: int, confidence: float, path: Path
) -> Path:
    """Write the page.

    Args:
        differences: from `compare`.
        names: of A and B.
        images: that both were evaluated on.
        confidence: of the intervals.
        path: of the HTML file.
    """
    summary = (
        f"<p>A is <code>{text(names[0])}</code>, B is <code>{text(names[1])}</code>; {number(images)} images, the same for both."
        "</p><ul>" + "".join(f"<li>{text(verdict(one, confidence))}</li>" for one in differences) + "</ul>"
    )
    rows = [[text(cell) for cell in cells(one)] for one in differences]
    body = table(list(HEAD), rows, f"Paired comparison, intervals of {confidence:.0%}") + (
        "<p>Intervals: paired bootstrap over images, captions of an image together. B better: share of the resamplings in which it "
        "is. Won and lost: images on which the models differ; p is the chance of so uneven a division, or a more uneven one, were "
        "they alike (exact sign test, two-sided). Of many metrics looked at, one in twenty leaves out 0 by luck.</p>"
    )
    return write_page(page("Comparison of two models", summary, body), path)
