"""Bounded runs of combining marks, so that Unicode normalization takes linear time.

Normalization sorts the marks behind a character; for a run of many marks, that takes quadratic time (80,000 of them: 8 s).
The text formats of Unicode that are safe for streams (UAX 15, section 13) have at most 30 in a row. No script needs more.
"""

import re

import regex  # type: ignore[import-untyped, unused-ignore]

MAX_MARKS = 30
"""Combining marks in a row that are kept; the others of a longer run are removed."""

# Marks, and halfwidth sound marks that normalization makes into marks. Ignorable characters between them count as part of
# the run, because `wordpiece.fold` removes them. The classes exclude each other, so that nothing is tried twice.
_MARK = r"[\p{M}\uFF9E\uFF9F]"
_BETWEEN = r"[\p{Default_Ignorable_Code_Point}--\p{M}]"
_RUN = regex.compile(rf"((?:{_MARK}{_BETWEEN}*+){{{MAX_MARKS}}})(?:{_MARK}{_BETWEEN}*+)+", regex.VERSION1)
# All of them begin at U+0300, but for the soft hyphen: most texts have no such run, and this is found faster.
_CANDIDATE = re.compile(rf"[\xad\u0300-\U0010ffff]{{{MAX_MARKS + 1}}}")


def limit_marks(text: str) -> str:
    """Return the text with at most `MAX_MARKS` combining marks in a row; most texts do not change."""
    if len(text) <= MAX_MARKS or text.isascii() or _CANDIDATE.search(text) is None:
        return text
    return str(_RUN.sub(r"\1", text))
