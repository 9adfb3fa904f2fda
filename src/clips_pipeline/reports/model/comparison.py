"""Rendering of the comparison of two models: a table for the terminal, and an HTML page."""

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Column, Table

from clips_pipeline.evaluation.metric_keys import higher_is_better, short_key
from clips_pipeline.evaluation.per_item.comparison import Difference
from clips_pipeline.reports.page import render, write_page

HEAD = ("metric", "A", "B", "B − A", "interval", "B better", "items won : lost", "sign test p")
_WIDE = 124  # minimum width in columns for the whole table


def cells(difference: Difference) -> tuple[str, ...]:
    """Return one row of the table as plain text, with the columns of `HEAD`."""
    return (
        difference.metric + ("" if higher_is_better(difference.metric) else " (lower is better)"),
        f"{difference.a:.4f}",
        f"{difference.b:.4f}",
        f"{difference.difference:+.4f}",
        f"{difference.low:+.4f} to {difference.high:+.4f}",
        f"{difference.fraction_better:.1%}",
        f"{difference.wins} : {difference.losses}",
        f"{difference.sign_p:.2g}",
    )


def verdicts(differences: Sequence[Difference], confidence: float) -> list[str]:
    """Return one sentence per verdict that occurs."""
    sentences = {
        "worse": f"A is better; the {confidence:.0%} interval excludes 0",
        "better": f"B is better; the {confidence:.0%} interval excludes 0",
        "even": f"No significant difference; the {confidence:.0%} interval contains 0",
    }
    lines = []
    for verdict, sentence in sentences.items():
        if metrics := [one.metric for one in differences if one.verdict == verdict]:
            lines.append(f"{sentence}: {', '.join(metrics)}")
    return lines


def write_comparison(
    differences: Sequence[Difference], names: tuple[str, str], items: int, confidence: float, path: Path
) -> Path:
    """Write the page.

    Args:
        differences: results of `compare`.
        names: names of A and B.
        items: number of items that both were evaluated on: images, or pairs of Winoground.
        confidence: confidence level of the intervals.
        path: path of the HTML file.
    """
    html = render(
        "comparison.html",
        names=names,
        items=items,
        verdicts=verdicts(differences, confidence),
        confidence=f"{confidence:.0%}",
        head=HEAD,
        rows=[cells(one) for one in differences],
    )
    return write_page(html, path)


def terminal_table(differences: Sequence[Difference], items: int, confidence: float, width: int) -> Table:
    """Return the table for a terminal of `width` columns. Narrow tables leave out the last columns of `HEAD`.

    Metrics are grouped by kind and shown without the set, which is the same for all.
    """
    head = HEAD if width >= _WIDE else HEAD[:5]
    table = Table(
        *(Column(name, justify="right" if place else "left", no_wrap=True) for place, name in enumerate(head)),
        title=f"{items} items, {confidence:.0%} confidence intervals",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    kind = ""
    for one in differences:
        short = short_key(one.metric)
        if kind != (kind := short.partition("/")[0]):
            table.add_row(escape(kind))
        name, *numbers = cells(one)
        table.add_row(escape(f"  {short.partition('/')[2]}{name.removeprefix(one.metric)}"), *numbers[: len(head) - 1])
    return table
