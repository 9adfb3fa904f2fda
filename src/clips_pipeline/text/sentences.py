"""The published rule that cuts a synthetic caption into sub-captions."""

import re

_STOPS = re.compile(r"[.!]+")


def split_sub_captions(caption: str) -> list[str]:
    """Every sub-caption of `caption`, in order.

    The published rule, exactly: each run of "." or "!" becomes "|", the text is split at "|", empty pieces are dropped.
    What follows from it is kept too:

    - the stops are gone, blanks at the ends of a piece stay, and a piece of blanks only is a piece;
    - "|" in the caption splits as well; "?", "…" and full-width stops do not;
    - decimals and abbreviations split: "3.50" gives "3" and "50";
    - no stop at all gives one piece, the whole caption; nothing but stops gives none.
    """
    return [piece for piece in _STOPS.sub("|", caption).split("|") if piece]
