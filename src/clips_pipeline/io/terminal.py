"""Text for terminals and logs: control characters of data and errors are shown, not executed; secrets are not shown."""

import logging
import os
import sys
import threading
import traceback
import unicodedata
from types import TracebackType
from typing import Any

from clips_pipeline.io.redact import redact

# Joiners (needed by many scripts and by emoji) and the soft hyphen are not hidden characters.
_JOINERS = "\u200c\u200d\u00ad"


def duration_text(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours, such as `40 s`, `25 min` and `3.2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def shown_path(path: str | os.PathLike[str]) -> str:
    """Return a path as a person would type it: relative to the working directory if it is inside."""
    text = os.fspath(path)
    relative = os.path.relpath(text)
    return text if relative.startswith(os.pardir) else relative


def is_hidden(letter: str) -> bool:
    """Return whether a character has an effect but no shape: controls, direction marks, line separators, lone surrogates."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in _JOINERS


def escape_controls(text: str) -> str:
    """Replace hidden characters by escapes such as `\\x1b`; newlines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(ascii(letter)[1:-1] if is_hidden(letter) and letter not in "\n\t" else letter for letter in text)


def safe_text(text: str) -> str:
    """Return text without secrets and control characters."""
    return escape_controls(redact(text))


class SafeRecord(logging.LogRecord):
    """A log record whose message and traceback are redacted, for the handlers that libraries install for themselves."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.exc_info and self.exc_info[0] is not None:
            # A formatter uses this text in place of its own.
            self.exc_text = redact("".join(traceback.format_exception(*self.exc_info))).rstrip("\n")

    def getMessage(self) -> str:  # noqa: N802  # overrides logging's method
        """Return the redacted message."""
        return redact(super().getMessage())


class PlainHandler(logging.StreamHandler[Any]):
    """Writes to the stdout of the moment, one line per message, however long."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(SafeFormatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"))

    @property
    def stream(self) -> Any:
        """The stream."""
        return sys.stdout

    @stream.setter
    def stream(self, _: Any) -> None:
        """Nothing to set."""


class SafeFormatter(logging.Formatter):
    """A formatter whose lines have no secrets or control characters, whatever a message, its arguments or a traceback contain."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return safe_text(super().format(record))


def protect_output() -> None:
    """Remove secrets and control characters from log lines and from the tracebacks of uncaught exceptions of this process.

    Lines of handlers that libraries install later, such as MLflow's, show no secrets either, but their control characters.
    Without a terminal, rich would break each line at 80 columns: there a plain handler takes the place of its own.

    Kedro accepts no formatter class in `conf/logging.yml`.
    """
    for place, handler in enumerate(logging.root.handlers):
        console = getattr(handler, "console", None)
        if console is not None and not (console.is_terminal or console.is_jupyter):
            logging.root.handlers[place] = PlainHandler()
    handlers = [*logging.root.handlers, *([logging.lastResort] if logging.lastResort is not None else [])]
    for handler in handlers:
        if isinstance(handler, PlainHandler):
            continue
        fmt = handler.formatter._fmt if handler.formatter is not None else None
        handler.setFormatter(SafeFormatter(fmt))
    logging.setLogRecordFactory(SafeRecord)
    sys.excepthook = _show_exception
    threading.excepthook = _show_thread_exception


def _show_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(safe_text("".join(traceback.format_exception(kind, error, trace))))


def _show_thread_exception(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is None or isinstance(arguments.exc_value, SystemExit):
        return
    name = arguments.thread.name if arguments.thread is not None else "unknown"
    sys.stderr.write(safe_text(f"Exception in thread {name}:\n"))
    _show_exception(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
