"""Rendering of the results of a suite: HTML page, Markdown, LaTeX and CSV, from the same cells."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clips_pipeline.evaluation.metric_keys import is_fraction
from clips_pipeline.evaluation.per_item.comparison import Measured
from clips_pipeline.evaluation.per_item.item_table import spreadsheet_safe
from clips_pipeline.evaluation.suite.published_results import PublishedModel
from clips_pipeline.evaluation.suite.table import SetFacts, SuiteTable, TableRow
from clips_pipeline.io.atomic import write_text
from clips_pipeline.reports.page import escape_invisible, render, write_page

HTML, MARKDOWN, LATEX, CSV = "suite.html", "suite.md", "suite.tex", "suite.csv"

_MARKS = {"better": "▲", "worse": "▼", "even": "="}
_LATEX_MARKS = {"▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$", "†": r"$^\dagger$", "–": "--", "Δ": r"$\Delta$"}
_LATEX_ESCAPES = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **_LATEX_MARKS,
}
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#])")


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: its text.
        best: whether it is the highest value of its row.
    """

    text: str
    best: bool = False


@dataclass(frozen=True)
class Section:
    """The rows of one group of sets.

    Attributes:
        title: name of the group.
        head: names of the columns.
        rows: cells of each row; the first one names set and metric.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def write_suite(table: SuiteTable, folder: Path) -> Path:
    """Write all forms of the table.

    Args:
        table: the table.
        folder: folder of the files; created.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_page(_page(table), folder / HTML)
    write_text(folder / MARKDOWN, markdown(table))
    write_text(folder / LATEX, latex(table))
    write_text(folder / CSV, spreadsheet_safe(table.frame()).to_csv(index=False))
    return folder


def head(table: SuiteTable, published: Sequence[PublishedModel]) -> tuple[str, ...]:
    """Return the column names: values of each model, behind each but the first its difference, and published models."""
    columns = ["set, metric", "chance", table.models[0]]
    for model in table.models[1:]:
        columns += [model, "Δ"]
    return (*columns, *(f"{model.name} †" for model in published))


def sections(table: SuiteTable, *, all_metrics: bool = False, all_columns: bool = False) -> list[Section]:
    """Return the rows by group.

    Args:
        table: the table.
        all_metrics: all metrics, not only those that papers compare.
        all_columns: all published models in every group, also those without a value in it.
    """
    chosen = [row for row in table.rows if all_metrics or row.headline]
    order = list(dict.fromkeys(row.group for row in chosen))
    found = []
    for group in order:
        rows = [row for row in chosen if row.group == group]
        shown = [
            number
            for number in range(len(table.published))
            if all_columns or any(row.published[number] is not None for row in rows)
        ]
        names = head(table, [table.published[number] for number in shown])
        found.append(Section(group, names, tuple(_cells(row, shown) for row in rows)))
    return found


def summary(table: SuiteTable) -> list[str]:
    """Return one sentence per model but the first: on how many headline metrics it wins."""
    lines = []
    for number, model in enumerate(table.models[1:], start=1):
        found = table.verdicts(number)
        lines.append(
            f"{model} against {table.models[0]}: better on {found['better']}, worse on {found['worse']}, no significant "
            f"difference on {found['even']} of {sum(found.values())} metrics"
        )
    return lines


def notes(table: SuiteTable) -> list[str]:
    """Return what the numbers mean."""
    found = [
        f"Percent with {table.confidence:.0%} intervals: bootstrap over images, entries on the same image together (Winoground "
        f"and MMVP-VLM: over pairs), {table.resamples:,} resamples. Towers in {table.precision} on {table.device}.",
    ]
    if len(table.models) > 1:
        found.append(
            "Δ: paired difference from the first model, on the same resamples. ▲ better and ▼ worse: the interval excludes 0; "
            "= no significant difference. There is no correction for multiple testing: of 20 metrics without a difference, one "
            "interval is expected to exclude 0."
        )
    if table.published:
        found.append("† Published value, not measured here: it has no interval and no paired difference.")
        found += [f"† {model.name}: {model.source}" for model in table.published]
    return found


def markdown(table: SuiteTable) -> str:
    """Return the table in Markdown."""
    lines = ["# Evaluation suite", "", *(f"- {_markdown(line)}" for line in summary(table))]
    for section in sections(table):
        lines += ["", f"## {section.title}", "", _markdown_row(section.head), "|" + " --- |" * len(section.head)]
        lines += [_markdown_row([_markdown_cell(cell) for cell in row], escaped=True) for row in section.rows]
    lines += ["", *(f"- {_markdown(line)}" for line in notes(table)), "", "## Sets", ""]
    lines += [_markdown_row(_SETS_HEAD), "|" + " --- |" * len(_SETS_HEAD)]
    lines += [_markdown_row(row) for row in _set_rows(table.present)]
    if table.absent:
        lines += ["", "## Absent sets", "", _markdown_row(_SETS_HEAD), "|" + " --- |" * len(_SETS_HEAD)]
        lines += [_markdown_row(row) for row in _set_rows(table.absent)]
    return "\n".join(lines) + "\n"


def latex(table: SuiteTable) -> str:
    """Return the table in LaTeX, for the packages booktabs and amssymb."""
    columns = head(table, table.published)
    lines = [
        "% Needs \\usepackage{booktabs,amssymb}.",
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        " & ".join(map(_latex, columns)) + r" \\",
    ]
    for section in sections(table, all_columns=True):
        lines += [r"\midrule", rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{_latex(section.title)}}}}} \\"]
        for row in section.rows:
            texts = [rf"\textbf{{{_latex(cell.text)}}}" if cell.best else _latex(cell.text) for cell in row]
            lines.append(" & ".join(texts) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", *(f"% {' '.join(line.split())}" for line in notes(table))]
    return "\n".join(lines) + "\n"


_SETS_HEAD = ("set", "size", "origin", "license", "note")


def _page(table: SuiteTable) -> str:
    return render(
        "suite.html",
        models=table.models,
        published=table.published,
        summary_lines=summary(table),
        notes=notes(table),
        sections_shown=sections(table),
        sections_all=sections(table, all_metrics=True),
        sets_head=_SETS_HEAD,
        present=_set_rows(table.present),
        absent=_set_rows(table.absent),
    )


def _cells(row: TableRow, published: Sequence[int]) -> tuple[Cell, ...]:
    cells = [Cell(f"{row.set_name}, {row.label}"), Cell(_number(row.metric, row.chance))]
    for one in row.measured:
        best = len(row.measured) > 1 and one.value == row.best
        cells.append(Cell(_value(row.metric, one), best))
        if one.difference is not None:
            cells.append(Cell(_change(row.metric, one)))
    values = [row.published[number] for number in published]
    return (*cells, *(Cell("" if value is None else _number(row.metric, value)) for value in values))


def _scale(metric: str) -> float:
    return 100.0 if is_fraction(metric) else 1.0


def _number(metric: str, value: float) -> str:
    return f"{_scale(metric) * value:.1f}"


def _value(metric: str, one: Measured) -> str:
    return f"{_number(metric, one.value)} [{_number(metric, one.low)}, {_number(metric, one.high)}]"


def _change(metric: str, one: Measured) -> str:
    assert one.difference is not None  # noqa: S101
    scale = _scale(metric)
    change, low, high = (
        scale * value for value in (one.difference.difference, one.difference.low, one.difference.high)
    )
    return f"{change:+.1f} [{low:+.1f}, {high:+.1f}] {_MARKS[one.difference.verdict]}"


def _set_rows(sets: Sequence[SetFacts]) -> list[tuple[str, ...]]:
    return [(one.name, one.size, one.origin, one.license, one.note) for one in sets]


def _markdown(text: str) -> str:
    return _MARKDOWN_SPECIAL.sub(r"\\\1", escape_invisible(" ".join(text.split())))


def _markdown_cell(cell: Cell) -> str:
    text = _markdown(cell.text)
    return f"**{text}**" if cell.best else text


def _markdown_row(cells: Sequence[str], *, escaped: bool = False) -> str:
    return "| " + " | ".join(cells if escaped else _escaped(cells)) + " |"


def _escaped(cells: Sequence[str]) -> Iterator[str]:
    return (_markdown(cell) for cell in cells)


def _latex(text: str) -> str:
    shown = escape_invisible(" ".join(text.split())).replace("−", "-")
    return "".join(_LATEX_ESCAPES.get(letter, letter) for letter in shown)
