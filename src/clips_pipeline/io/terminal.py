"""Text for terminals: control characters of data and of errors are shown, not executed."""

import logging
import unicodedata

# Joiners (needed by many scripts and by emoji) and the soft hyphen are not hidden characters.
_JOINERS = "\u200c\u200d\u00ad"


def is_hidden(letter: str) -> bool:
    """Return whether a character has an effect but no shape: controls, direction marks, line separators, lone surrogates."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in _JOINERS


def escape_controls(text: str) -> str:
    """Replace hidden characters by escapes such as `\\x1b`; newlines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(ascii(letter)[1:-1] if is_hidden(letter) and letter not in "\n\t" else letter for letter in text)


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
