"""Drawing of the state of a stage: with rich in a terminal, with IPython in a notebook.

Imported by `progress` when something is drawn: a registered model reports progress too, and requires none of these packages.
"""

import sys
from typing import Any

from rich import get_console
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from clips_pipeline.io.terminal import safe_text

__all__ = [
    "Console",
    "ConsoleOptions",
    "Live",
    "RenderResult",
    "default_console",
    "live_line",
    "notebook_output",
    "start_live",
]

_BAR_WIDTH, _LEAST_BAR_WIDTH = 40, 8


def default_console() -> Console:
    """Return the terminal of the log lines."""
    return get_console()


def live_line(title: str, counts: str, note: str, time: str, share: float | None, room: int) -> Table:
    """Return the line of a stage in at most `room` columns: the note is cut first, then the bar.

    Args:
        title: name of the stage.
        counts: how many units are done.
        note: what is shown behind the counts.
        time: time left or taken.
        share: fraction that is done, as the bar shows it; None pulses.
        room: width in columns.
    """
    words = [safe_text(title), counts, time]
    room -= sum(cell_len(word) + 1 for word in words if word) + 1
    if (width := room - cell_len(note) - 2) < _LEAST_BAR_WIDTH:
        left = max(0, room - _LEAST_BAR_WIDTH - 2)
        note = set_cell_size(note, left - 1).rstrip() + "…" if 4 <= left < cell_len(note) else note[:left]
        width = room - (cell_len(note) + 1 if note else 0)
    line = Table.grid(padding=(0, 1, 0, 0))
    cells: list[Any] = [f"[bold]{escape(words[0])}[/bold]"]
    if width >= _LEAST_BAR_WIDTH:
        cells.append(ProgressBar(None if share is None else 1, 1 if share is None else share, min(_BAR_WIDTH, width)))
    cells += [f"[green]{escape(words[1])}[/green]", *([escape(note)] if note else []), f"[cyan]{words[2]}[/cyan]"]
    for _ in cells:
        line.add_column(no_wrap=True)
    line.add_row(*cells)
    return line


def start_live(stage: Any, console: Console, refreshes_per_s: float) -> Live:
    """Start to draw the stage, an object that rich can render, on a terminal."""
    # What others write to stderr must not break the line; in a file it stays in the file.
    live = Live(stage, console=console, refresh_per_second=refreshes_per_s, redirect_stderr=sys.stderr.isatty())
    live.start(refresh=True)
    # A killed process must not leave a terminal without its cursor.
    console.show_cursor(True)
    return live


def notebook_output(form: dict[str, str]) -> Any:
    """Show the form in the output of the cell, and return the handle that changes it."""
    from IPython.display import display

    # Raw, because the formatters that rich installs would print the object a second time.
    return display(form, display_id=True, raw=True)  # type: ignore[no-untyped-call]
