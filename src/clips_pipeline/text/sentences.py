"""Splitting of synthetic captions into sub-captions, by the published rule."""

import re

_STOPS = re.compile(r"[.!]+")


def split_sub_captions(caption: str) -> list[str]:
    """Split `caption` into its sub-captions, in order.

    The rule is exactly the published one: replace each run of "." or "!" by "|", split at "|", and drop empty pieces.
    Consequences:

    - Stops are removed; spaces at the ends of a piece stay, and a piece of spaces only is a piece.
    - "|" in the caption splits too; "?", "…" and full-width stops do not.
    - Decimals and abbreviations split: "3.50" gives "3" and "50".
    - A caption without stops is one piece; a caption of stops only has none.
    """
    return [piece for piece in _STOPS.sub("|", caption).split("|") if piece]
