"""Compositional questions about an image, in SugarCrepe's form: a true caption, and one with almost the same words that is not.

In KEY.json they are a list under `questions`: `{"subset": …, "caption": …, "negative_caption": …}`.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

FIELD: Final = "questions"

# Subsets become names of metrics and of columns; `mean` is the mean over them.
_SUBSET = re.compile(r"(?!mean$)[a-z][a-z0-9_]{0,23}")
_KEYS: Final = ("subset", "caption", "negative_caption")


class CaptionQuestion(NamedTuple):
    """Which of two captions is true of an image?

    Attributes:
        subset: what the question is about; lower-case letters, digits and '_', at most 24.
        caption: the true caption.
        negative: the other one.
    """

    subset: str
    caption: str
    negative: str


def parse_questions(value: object) -> tuple[CaptionQuestion, ...]:
    """Return the questions in a field of a foreign JSON; whatever has another form is no question and is left out."""
    found = []
    for entry in value if isinstance(value, list) else []:
        texts = [entry.get(key) for key in _KEYS] if isinstance(entry, dict) else []
        filled = [text for text in texts if isinstance(text, str) and text.strip()]
        if len(filled) == len(_KEYS) and _SUBSET.fullmatch(filled[0]) and filled[1] != filled[2]:
            found.append(CaptionQuestion(*filled))
    return tuple(found)


def questions_json(questions: Iterable[CaptionQuestion]) -> list[dict[str, str]]:
    """Return what KEY.json holds; the inverse of `parse_questions`."""
    return [dict(zip(_KEYS, question, strict=True)) for question in questions]
