"""Fragment strategies: the short part of a long synthetic caption that the text tower reads (CLIPS paper, section 3.1).

Every strategy keeps the order of the caption, is deterministic given its generator, and never exceeds its budget.
`docs/reference/fragments.md` lists all edge cases with examples.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clips_pipeline.config import ConfigError, PositiveInt
from clips_pipeline.text.sentences import split_sub_captions
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

_TRIES = 8

Strategy = Literal["sub_caption", "truncation", "random_mask", "block_mask"]


@dataclass(frozen=True)
class FragmentConfig:
    """Parameters of a fragment.

    Attributes:
        strategy: one of the functions of this module; `sub_caption` is the published default.
        tokens: budget in ids, without special ids. None is no budget: `sub_caption` takes one sentence, as published, and
            the other strategies the whole caption (in `CaptionReader`, the capacity of the row).
        blank_pieces: treatment of pieces without ids, such as the space after the last stop, by `sub_caption` without a
            budget. "keep" is published: such a piece may be drawn and gives an empty text. "drop" never draws one. With a
            budget they are always skipped.
    """

    strategy: Strategy = "sub_caption"
    tokens: PositiveInt | None = None
    blank_pieces: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        if self.blank_pieces == "drop" and self.strategy != "sub_caption":
            raise ConfigError(f"blank_pieces: applies to sub_caption only, not to {self.strategy}; remove the key")


def fragment(caption: str, config: FragmentConfig, tokenizer: Tokenizer, rng: random.Random) -> list[int] | None:
    """Make a fragment of `caption`, as ids without special ids.

    Args:
        caption: synthetic caption.
        config: strategy and budget.
        tokenizer: tokenizer of the model.
        rng: random generator; the number of draws depends on the caption.

    Returns:
        At most `config.tokens` ids. None if the caption has no usable piece (no ids, or for `sub_caption` only stops); the
        caller then uses the web caption. The list is empty in one case only, which is published behavior: `sub_caption`
        without a budget, `blank_pieces="keep"`, and a blank piece drawn.
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


def several_fragments(
    captions: Sequence[str], count: int, config: FragmentConfig, tokenizer: Tokenizer, rng: random.Random
) -> list[list[int]]:
    """Make `count` fragments of the captions of one image, of one caption after the other, in turn.

    Without a budget, `sub_caption` draws the sentences of a caption without replacement, and begins again when all are drawn. The
    other draws are repeated, up to eight times, while the fragment is one that there is already.

    Args:
        captions: synthetic captions; those without a usable piece are left out.
        count: number of fragments.
        config: strategy and budget.
        tokenizer: tokenizer of the model.
        rng: random generator.

    Returns:
        As `fragment`, for each. Empty if no caption has a usable piece.
    """
    usable = [caption for caption in captions if fragment(caption, config, tokenizer, random.Random(0)) is not None]  # noqa: S311
    if not usable:
        return []
    sentences = config.strategy == "sub_caption" and config.tokens is None
    left: dict[int, list[list[int]]] = {}
    found: list[list[int]] = []
    for number in range(count):
        place = number % len(usable)
        if sentences:
            if not left.get(place):
                left[place] = _shuffled_sentences(usable[place], config, tokenizer, rng)
            # A sentence may stand in a caption twice, or in two captions.
            new = next((at for at, ids in enumerate(left[place]) if ids not in found), 0)
            found.append(left[place].pop(new))
            continue
        for _ in range(_TRIES):
            part = fragment(usable[place], config, tokenizer, rng)
            if part is not None and part not in found:
                break
        found.append(part or [])
    return found


def _shuffled_sentences(
    caption: str, config: FragmentConfig, tokenizer: Tokenizer, rng: random.Random
) -> list[list[int]]:
    bodies = [tokenizer.body(piece) for piece in split_sub_captions(caption)]
    if config.blank_pieces == "drop":
        bodies = [body for body in bodies if body]
    return rng.sample(bodies, len(bodies))


def draw_sentence(caption: str, tokenizer: Tokenizer, rng: random.Random, *, drop_blank: bool) -> list[int] | None:
    """Draw one whole sub-caption uniformly: the published training default.

    Short and long sentences are equally likely; repeated sentences count once per occurrence. None if there are no pieces.
    """
    pieces = split_sub_captions(caption)
    if not drop_blank:
        return tokenizer.body(rng.choice(pieces)) if pieces else None
    bodies = [body for body in map(tokenizer.body, pieces) if body]
    return rng.choice(bodies) if bodies else None


def draw_sentences(caption: str, tokens: int, tokenizer: Tokenizer, rng: random.Random) -> list[int] | None:
    """Draw distinct sub-captions until the budget of `tokens` ids is full (the paper's length study).

    Sentences are drawn without replacement and returned in the order of the caption. The last one drawn is truncated to fill
    the budget exactly; the others are whole. The paper shows two sentences, the second truncated, and does not specify the
    order; the order of the caption is kept so that later sentences still refer to earlier ones.

    A caption within the budget is returned unchanged, including stops, as by every other strategy. None if no sub-caption
    has ids.
    """
    pieces = split_sub_captions(caption)
    whole = tokenizer.body(caption)
    if len(whole) <= tokens:
        return whole if any(tokenizer.body(piece) for piece in pieces) else None
    taken: list[tuple[int, list[int]]] = []
    remaining = tokens
    for place in rng.sample(range(len(pieces)), len(pieces)):
        ids = tokenizer.body(pieces[place])[:remaining]
        taken.append((place, ids))
        remaining -= len(ids)
        if not remaining:
            break
    joined = [index for _, ids in sorted(taken) for index in ids]
    return joined or None


def random_mask(body: Sequence[int], tokens: int, rng: random.Random) -> list[int]:
    """Draw `tokens` ids of `body` at random positions, uniformly over all sets of positions, in order.

    The published JAX code leaves the ids shuffled; the paper's figure shows them in order, as does this function.
    """
    places = sorted(rng.sample(range(len(body)), min(tokens, len(body))))
    return [body[place] for place in places]


def block_mask(body: Sequence[int], tokens: int, rng: random.Random) -> list[int]:
    """Draw `tokens` contiguous ids; the start is uniform over all possible positions, inclusive."""
    start = rng.randint(0, max(0, len(body) - tokens))
    return list(body[start : start + tokens])
