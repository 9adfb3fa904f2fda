"""Fragments: the short part of a long synthetic caption that the text tower reads (CLIPS paper, section 3.1).

Every strategy keeps the caption's order, is deterministic given its generator, and never returns more than its budget.
`docs/fragments.md` tells every edge case with examples.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clips_pipeline.config import ConfigError, PositiveInt
from clips_pipeline.text.sentences import split_sub_captions
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

Strategy = Literal["sub_caption", "truncation", "random_mask", "block_mask"]


@dataclass(frozen=True)
class FragmentConfig:
    """How a fragment is made.

    Attributes:
        strategy: see the functions of this module; `sub_caption` is the published default.
        tokens: the budget in ids of the body, specials not counted. None means no budget: `sub_caption` takes one
            sentence, as published, and the others take the whole caption (a `CaptionReader` gives them the room
            of its row).
        blank_pieces: what `sub_caption` without a budget does with pieces that hold no id, such as the blank after a
            caption's last stop. "keep" is published: such a piece may be drawn and gives an empty text. "drop" never
            draws one. With a budget they are always passed over.
    """

    strategy: Strategy = "sub_caption"
    tokens: PositiveInt | None = None
    blank_pieces: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        if self.blank_pieces == "drop" and self.strategy != "sub_caption":
            raise ConfigError(f"blank_pieces: only sub_caption has pieces, not {self.strategy}; remove the key")


def fragment(caption: str, config: FragmentConfig, tokenizer: Tokenizer, rng: random.Random) -> list[int] | None:
    """Body ids of a fragment of `caption`.

    Args:
        caption: the synthetic caption.
        config: strategy and budget.
        tokenizer: gives the body ids.
        rng: the only source of chance; how often it is asked depends on the caption.

    Returns:
        At most `config.tokens` ids. None where the caption has no usable piece: no id at all, or for `sub_caption`
        nothing but stops; the caller then takes the web caption. The list is empty in one case only, the published one:
        `sub_caption` without budget, `blank_pieces="keep"`, and a blank piece drawn.
    """
    if config.strategy == "sub_caption":
        if config.tokens is None:
            return draw_sentence(caption, tokenizer, rng, drop_blank=config.blank_pieces == "drop")
        return draw_sentences(caption, config.tokens, tokenizer, rng)
    body = tokenizer.body(caption)
    if not body:
        return None
    if config.tokens is None or len(body) <= config.tokens:
        return body
    if config.strategy == "truncation":
        return body[: config.tokens]
    if config.strategy == "random_mask":
        return random_mask(body, config.tokens, rng)
    return block_mask(body, config.tokens, rng)


def draw_sentence(caption: str, tokenizer: Tokenizer, rng: random.Random, *, drop_blank: bool) -> list[int] | None:
    """One sub-caption, each with the same chance, whole: the published training default.

    Short and long sentences are equally likely, and so are equal ones at two places. None without any piece.
    """
    pieces = split_sub_captions(caption)
    if not drop_blank:
        return tokenizer.body(rng.choice(pieces)) if pieces else None
    bodies = [body for body in map(tokenizer.body, pieces) if body]
    return rng.choice(bodies) if bodies else None


def draw_sentences(caption: str, tokens: int, tokenizer: Tokenizer, rng: random.Random) -> list[int] | None:
    """Distinct random sub-captions until `tokens` ids are full, in the caption's order (the paper's length study).

    Sentences are drawn without replacement; the last one drawn is cut at its end to fill the budget exactly, and every
    sentence drawn before it is whole. The paper shows two sentences, the second cut, and does not say how they are
    ordered; the caption's order is kept so that later sentences still refer back to earlier ones.

    A caption that fits as it stands comes back untouched, stops included, as from every other strategy. None when no
    sub-caption holds an id.
    """
    pieces = split_sub_captions(caption)
    whole = tokenizer.body(caption)
    if len(whole) <= tokens:
        return whole if any(tokenizer.body(piece) for piece in pieces) else None
    taken: list[tuple[int, list[int]]] = []
    room = tokens
    for place in rng.sample(range(len(pieces)), len(pieces)):
        ids = tokenizer.body(pieces[place])[:room]
        taken.append((place, ids))
        room -= len(ids)
        if not room:
            break
    joined = [index for _, ids in sorted(taken) for index in ids]
    return joined or None


def random_mask(body: Sequence[int], tokens: int, rng: random.Random) -> list[int]:
    """`tokens` ids of `body` at random places, each set of places with the same chance, order kept.

    The published JAX code leaves the ids shuffled; the paper's figure shows them in order, and so does this.
    """
    places = sorted(rng.sample(range(len(body)), min(tokens, len(body))))
    return [body[place] for place in places]


def block_mask(body: Sequence[int], tokens: int, rng: random.Random) -> list[int]:
    """`tokens` neighbouring ids; every start from the first to the last possible, inclusive, has the same chance."""
    start = rng.randint(0, max(0, len(body) - tokens))
    return list(body[start : start + tokens])
