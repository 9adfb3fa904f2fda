"""How far a stage is: one live line in a terminal, one line that changes in a notebook, a log line now and then elsewhere.

A stage inside another one shows no bar of its own: its state is the note of the outer one. Processes that a stage starts
show nothing; the stage counts their results.
"""

import html
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from clips_pipeline.io.terminal import duration_text, safe_text

if TYPE_CHECKING:
    from clips_pipeline.progress_display import Console, ConsoleOptions, Live, RenderResult

log = logging.getLogger(__name__)
T = TypeVar("T")

# Without a terminal: a line for each tenth, at most one in `_LEAST_S`, at least one in `_MOST_S`.
_TENTHS, _LEAST_S, _MOST_S = 10, 5.0, 300.0
_REFRESHES_PER_S = 4
_POLL_S = 1.0

_active: list["Stage"] = []


class Stage:
    """The state of a stage, shown while it is a context.

    Args:
        title: name of the stage, such as `train`.
        total: how many units there are; None where nobody knows.
        unit: what is counted, in the plural.
        done: how many were done before.
        console: terminal to draw on, or for the lines in place of the log; None draws on the terminal of the log lines.
        note: what is shown behind the count.
        logs: whether lines are logged without a terminal.

    Attributes:
        done: how many units are done.
        total: as the argument; may be changed.
        note: as the argument; may be changed.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str,
        *,
        done: int = 0,
        console: "Console | None" = None,
        note: str = "",
        logs: bool = True,
    ) -> None:
        self.title, self.total, self.unit, self.note, self.done = title, total, unit, note, done
        self._before, self._console, self._logs = done, console, logs
        self._outer: Stage | None = None
        self._inner: Stage | None = None
        self._live: Live | None = None
        self._notebook: Any = None
        self._started = self._updated = self._logged = time.monotonic()
        self._first: tuple[float, float] | None = None  # time and fraction of the first update
        self._last_tenth = 0
        self._silent = self._ended = False

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count some units as done."""
        self.update(self.done + count, note)

    def update(self, done: int, note: str | None = None) -> None:
        """Set how many units are done.

        Args:
            done: number of units.
            note: what is shown behind the count; None leaves it.
        """
        if self._first is None:
            # A training that resumes starts at its last checkpoint, and the first step comes late: neither counts.
            few = done - self._before <= 1
            self._first = (self._started, self._share(self._before)) if few else (time.monotonic(), self._share(done))
        self.done = done
        if note is not None:
            self.note = note
        (self._outer or self)._show()

    def _share(self, done: float) -> float:
        return done / self.total if self.total else 0.0

    @property
    def fraction(self) -> float:
        """Fraction of the work that is done; a stage inside this one counts for a part of a unit."""
        inner = self._inner.fraction if self._inner is not None else 0.0
        return min(1.0, self._share(self.done + inner))

    @property
    def seconds_left(self) -> float | None:
        """Estimated time to the end; None where nothing is known yet."""
        if self.total and self.done >= self.total:
            return 0.0
        since, share = self._first if self._first is not None else (self._started, self._share(self._before))
        gained, took = self.fraction - share, time.monotonic() - since
        return took * (1 - self.fraction) / gained if gained > 0 and took > 0 else None

    @property
    def counts(self) -> str:
        """`12 of 120 steps`."""
        return (
            f"{self.done:,} of {self.total:,} {self.unit}" if self.total is not None else f"{self.done:,} {self.unit}"
        )

    @property
    def time(self) -> str:
        """Time left, or the time that a stage which has ended took."""
        if self._ended:
            return f"in {duration_text(time.monotonic() - self._started)}"
        left = self.seconds_left
        return "" if left is None else f"{duration_text(left)} left"

    @property
    def remarks(self) -> str:
        """The note and the state of the stage inside this one."""
        inner = self._inner
        below = "" if inner is None else ", ".join(filter(None, (f"{inner.title}: {inner.counts}", inner.remarks)))
        return safe_text("  ".join(filter(None, (self.note, below))))

    def _show(self) -> None:
        """Show the new state where it is not drawn by itself."""
        now = time.monotonic()
        if self._notebook is not None:
            if self._ended or now - self._updated > 1 / _REFRESHES_PER_S:
                self._updated = now
                self._notebook.update(self._notebook_form(), raw=True)
        elif self._live is None and self._logs and not self._silent:
            tenth = int(self.fraction * _TENTHS)
            due = now - self._logged > (_LEAST_S if tenth > self._last_tenth else _MOST_S)
            if due and not self._ended and self.total != self.done:
                self._logged, self._last_tenth = now, tenth
                self._say()

    def _say(self) -> None:
        if self._console is None:
            log.info("%s", self.text())
        else:
            self._console.print(self.text(), soft_wrap=True, markup=False, highlight=False)

    def text(self) -> str:
        """Return the state as one line of a log."""
        percent = f" ({self.fraction:.0%})" if self.total and not self._ended else ""
        return f"{self.title}: {', '.join(filter(None, (f'{self.counts}{percent}', self.remarks, self.time)))}"

    def _notebook_form(self) -> dict[str, str]:
        share = f'value="{self.fraction:.4f}"' if self.total else ""
        words = "  ".join(filter(None, (self.counts, self.remarks, self.time)))
        line = (
            f'<div style="font-family: monospace; white-space: pre-wrap">{html.escape(self.title)} '
            f'<progress {share} max="1"></progress> {html.escape(words)}</div>'
        )
        return {"text/html": line, "text/plain": self.text()}

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Yield the line, as wide as the terminal allows."""
        from clips_pipeline.progress_display import live_line

        share = self.fraction if self.total is not None else 1.0 if self._ended else None
        yield live_line(self.title, self.counts, self.remarks, self.time, share, options.max_width)

    def __enter__(self) -> "Stage":
        """Start to show it."""
        self._started = self._logged = time.monotonic()
        if _active:
            self._outer = _active[0]
            _active[-1]._inner = self
        else:
            self._silent = _is_silent()
            if not self._silent:
                self._start()
        _active.append(self)
        return self

    def _start(self) -> None:
        from clips_pipeline.progress_display import default_console, notebook_output, start_live

        if in_notebook():
            self._notebook = notebook_output(self._notebook_form())
            return
        console = self._console or default_console()
        if is_live(console):
            self._live = start_live(self, console, _REFRESHES_PER_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state as a line."""
        _active.remove(self)
        if self._outer is not None:
            if _active:
                _active[-1]._inner = None
            return
        self._ended = error is None
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._notebook is not None:
            self._show()
        elif self._logs and error is None and not self._silent:
            self._say()


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def is_live(console: "Console") -> bool:
    """Return whether a line can be redrawn: in a terminal that understands it, and where neither NO_COLOR nor CI is set."""
    plain = any(os.environ.get(name) for name in ("NO_COLOR", "CI"))
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal and not plain


def _is_silent() -> bool:
    """Return whether this is a process that a stage has started, or a thread beside the main one."""
    return multiprocessing.parent_process() is not None or threading.current_thread() is not threading.main_thread()


def track(items: Iterable[T], title: str, total: int | None, unit: str) -> Iterator[T]:
    """Yield the items; where a stage is shown, how many have been taken is a part of its note.

    Args:
        items: what is iterated over.
        title: what is done with them.
        total: how many there are; None where nobody knows.
        unit: what they are, in the plural.
    """
    if not _active or threading.current_thread() is not threading.main_thread():
        yield from items
        return
    with Stage(title, total, unit) as stage:
        for item in items:
            yield item
            stage.advance()


class Finishable(Protocol):
    """Work that leaves a file."""

    @property
    def is_done(self) -> bool:
        """Whether the file exists."""
        ...


@contextmanager
def count_finished(stage: Stage, work: Sequence[Finishable]) -> Iterator[None]:
    """In the body, count from time to time what is done, for work that leaves files and runs anywhere.

    Args:
        stage: the stage whose units are counted.
        work: the units that are not counted yet.
    """
    ended, before = threading.Event(), stage.done
    waiting = list(work)

    def count() -> None:
        waiting[:] = [one for one in waiting if not one.is_done]
        if (done := before + len(work) - len(waiting)) != stage.done:
            stage.update(done)

    def watch() -> None:
        while not ended.wait(_POLL_S):
            count()

    thread = threading.Thread(target=watch, daemon=True, name="count-finished")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        count()
