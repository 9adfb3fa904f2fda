"""A comparison for people: lines for a terminal, and one HTML page."""

from collections.abc import Sequence
from pathlib import Path

from clips_pipeline.evaluation.comparison import Difference
from clips_pipeline.evaluation.metric_keys import higher_is_better
from clips_pipeline.reports.page import number, page, table, text, write_page

HEAD = ("metric", "A", "B", "B − A", "interval", "B better", "items won : lost", "sign test p")


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


def verdicts(differences: Sequence[Difference], confidence: float) -> list[str]:
    """What may be said, a sentence for each outcome."""
    outcomes: dict[str, list[str]] = {"A": [], "B": [], "": []}
    for one in differences:
        if one.low <= 0 <= one.high:
            outcomes[""].append(one.metric)
        else:
            outcomes["B" if (one.difference > 0) == higher_is_better(one.metric) else "A"].append(one.metric)
    said = [
        f"{who} is better, and the {confidence:.0%} interval leaves out 0: {', '.join(metrics)}"
        for who, metrics in outcomes.items()
        if who and metrics
    ]
    if outcomes[""]:
        said.append(f"No difference that chance could not explain, at {confidence:.0%}: {', '.join(outcomes[''])}")
    return said


def write_comparison(
    differences: Sequence[Difference], names: tuple[str, str], items: int, confidence: float, path: Path
) -> Path:
    """Write the page.

    Args:
        differences: from `compare`.
        names: of A and B.
        items: that both were evaluated on: images, or pairs of Winoground.
        confidence: of the intervals.
        path: of the HTML file.
    """
    summary = (
        f"<p>A is <code>{text(names[0])}</code>, B is <code>{text(names[1])}</code>; {number(items)} items, the same for both."
        "</p><ul>" + "".join(f"<li>{text(one)}</li>" for one in verdicts(differences, confidence)) + "</ul>"
    )
    rows = [[text(cell) for cell in cells(one)] for one in differences]
    shown = table(list(HEAD), rows, f"Paired comparison, intervals of {confidence:.0%}")
    body = f'<div class="dense">{shown}</div>' + (
        "<p>Intervals: paired bootstrap over images (of Winoground over pairs), captions of an image together. B better: share of "
        "the resamplings in which it is. Won and lost: items on which the models differ; p is the chance of so uneven a division, "
        "or a more uneven one, were they alike (exact sign test, two-sided). Of many metrics looked at, one in twenty leaves out 0 "
        "by luck.</p>"
    )
    return write_page(page("Comparison of two models", summary, body), path)
