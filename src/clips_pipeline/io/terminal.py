"""Text for terminals: control characters of data and of errors are shown, not executed."""

import logging


def escape_controls(text: str) -> str:
    """Replace what a terminal would act on by escapes such as `\\x1b`; newlines and tabs stay.

    These are control characters, characters that change the text direction, and lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


class EscapingFormatter(logging.Formatter):
    """A formatter whose lines hold no control characters, whatever a message, its arguments or a traceback contain."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return escape_controls(super().format(record))


def escape_log_lines() -> None:
    """Give every handler of the root logger an `EscapingFormatter`. Kedro accepts no such class in `conf/logging.yml`."""
    for handler in logging.root.handlers:
        fmt = handler.formatter._fmt if handler.formatter is not None else None
        handler.setFormatter(EscapingFormatter(fmt))
