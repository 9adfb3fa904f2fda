"""Captions in a field of JSON, of a table or of a captions file, whose types are those of others.

| the field holds | captions |
| --- | --- |
| a text | this one |
| a list of texts | each of them |
| a list of `{"captioner": …, "text": …}`, or one of them | each of them, with its captioner |
| `{"captioner": [a, b, …], "text": [c, d, …]}`, as Hugging Face stores such a list | the same |
| an object captioner → text or list of texts | each of them, with its captioner |
| nothing (null), also in a list | none |
"""

from collections.abc import Iterator
from typing import Final

from clips_pipeline.text.captions import Caption

WEB_LIST_FIELD: Final = "web_captions"
SYNTHETIC_LIST_FIELD: Final = "synthetic_captions"
"""Fields of KEY.json in which `prepare` writes several captions."""

MAX_CAPTIONER_CHARACTERS: Final = 200
_FEWEST_CHARACTERS_OF_A_TEXT = 4
_ENTRY = {"captioner", "text"}


class CaptionTypeError(ValueError):
    """A field that does not hold captions; the message follows the name of the field."""


def parse_captions(value: object, captioner: str = "") -> list[Caption]:
    """Return the captions that a field holds, empty ones included.

    Args:
        value: content of the field.
        captioner: name of the model that wrote captions without a name of their own.

    Raises:
        CaptionTypeError: the value is none of the forms above, or a list of the characters of a text.
    """
    if isinstance(value, str):
        return [Caption(value, captioner)]
    if value is None:
        return []
    if isinstance(value, dict) and value.keys() == _ENTRY:
        value = _entries(value)
    if isinstance(value, dict):
        return [found for name, texts in value.items() for found in _of_captioner(texts, name)]
    if not isinstance(value, list):
        raise CaptionTypeError(f"is not text: it holds a {type(value).__name__}")
    captions = [_entry(entry, captioner) for entry in value if not _is_null(entry)]
    if len(captions) >= _FEWEST_CHARACTERS_OF_A_TEXT and all(len(caption.text) == 1 for caption in captions):
        start = "".join(caption.text for caption in captions[:20])
        raise CaptionTypeError(
            f"is a list of the characters of one text ({start!r}…); give the text, or a list of texts"
        )
    return captions


def drop_blank(captions: list[Caption]) -> tuple[Caption, ...]:
    """Leave out blank captions, such as that of a captioner that failed. A single one of white space stays, as it is."""
    filled = tuple(caption for caption in captions if caption.text and not caption.text.isspace())
    return filled or tuple(caption for caption in captions[:1] if caption.text)


def _entries(value: dict[str, object]) -> list[object]:
    """Return the list that an object with the keys of an entry stands for."""
    names, texts = value["captioner"], value["text"]
    if not isinstance(names, list) or not isinstance(texts, list):
        return [value]
    if len(names) != len(texts):
        raise CaptionTypeError(f"has {len(names)} captioners and {len(texts)} texts")
    return [{"captioner": name, "text": text} for name, text in zip(names, texts, strict=True)]


def _of_captioner(texts: object, name: object) -> Iterator[Caption]:
    captioner = _captioner(name)
    if isinstance(texts, dict) or (
        isinstance(texts, list) and not all(text is None or isinstance(text, str) for text in texts)
    ):
        raise CaptionTypeError(f"is not text: under {captioner!r} it holds neither a text nor a list of texts")
    yield from parse_captions(texts, captioner)


def _is_null(entry: object) -> bool:
    """Return whether an entry stands for no caption: in a table, a captioner that failed has null."""
    return entry is None or (isinstance(entry, dict) and "text" in entry and entry["text"] is None)


def _entry(entry: object, captioner: str) -> Caption:
    if isinstance(entry, str):
        return Caption(entry, captioner)
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise CaptionTypeError(f"is not text: its list holds a {type(entry).__name__} that is no caption")
    return Caption(entry["text"], _captioner(entry.get("captioner") or captioner))


def _captioner(name: object) -> str:
    if not isinstance(name, str) or len(name) > MAX_CAPTIONER_CHARACTERS or not (name.isprintable()):
        raise CaptionTypeError(
            f"has a captioner that is not a printable name of at most {MAX_CAPTIONER_CHARACTERS} characters"
        )
    return name
