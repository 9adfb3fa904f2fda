"""Parser of captions: the things, colors and textures that a sentence names."""

import re
from dataclasses import dataclass

from clips_pipeline.data.scenes.lexicon import COLOR_WORDS, KIND_WORDS, SIZE_WORDS, TEXTURE_WORDS


def _plain_word_of(words: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {word: meaning for meaning, names in words.items() for word in names}


def _pattern_of(words: dict[str, str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


KINDS_BY_WORD = _plain_word_of(KIND_WORDS)
COLORS_BY_WORD = _plain_word_of(COLOR_WORDS)
TEXTURES_BY_WORD = _plain_word_of(TEXTURE_WORDS)
SIZES_BY_WORD = _plain_word_of(SIZE_WORDS)
_PHRASE = re.compile(
    rf"\b(?:(?P<size>{_pattern_of(SIZES_BY_WORD)}) )?(?:(?P<color>{_pattern_of(COLORS_BY_WORD)}) )?"
    rf"(?:(?P<texture>{_pattern_of(TEXTURES_BY_WORD)}) )?(?P<kind>{_pattern_of(KINDS_BY_WORD)})\b"
)


@dataclass(frozen=True)
class ThingWords:
    """The properties of a thing that a caption names; None for the others."""

    kind: str
    size: str | None
    color: str | None
    texture: str | None


def named_things(text: str) -> list[ThingWords]:
    found = []
    for match in _PHRASE.finditer(text.lower()):
        size, color, texture = match["size"], match["color"], match["texture"]
        found.append(
            ThingWords(
                KINDS_BY_WORD[match["kind"]],
                SIZES_BY_WORD[size] if size else None,
                COLORS_BY_WORD[color] if color else None,
                TEXTURES_BY_WORD[texture] if texture else None,
            )
        )
    return found
