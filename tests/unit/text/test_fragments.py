"""A contract for every fragment strategy, and tests of single strategies."""

# ruff: noqa: S311 - no secret depends on the draws

import random
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clips_pipeline.config import ConfigError, from_mapping, to_mapping
from clips_pipeline.text.fragments import FragmentConfig, Strategy, block_mask, fragment, random_mask
from clips_pipeline.text.sentences import split_sub_captions
from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
captions = st.text(alphabet="abd og.!|?, \t", max_size=80) | st.lists(
    st.sampled_from(["a dog", " the grass is red.", "!", ". ", " on", "...", "x1 "]), max_size=12
).map("".join)


def is_subsequence(part: Sequence[int], whole: Sequence[int]) -> bool:
    rest = iter(whole)
    return all(index in rest for index in part)


def check_contract(caption: str, strategy: Strategy, tokens: int, tokenizer: Tokenizer, seed: int) -> None:
    config = FragmentConfig(strategy, tokens)
    part = fragment(caption, config, tokenizer, random.Random(seed))
    whole = tokenizer.body(caption)
    usable = any(map(tokenizer.body, split_sub_captions(caption))) if strategy == "sub_caption" else bool(whole)
    assert fragment(caption, config, tokenizer, random.Random(seed)) == part
    assert (part is not None) == usable
    if part is None:
        return
    assert part
    assert len(part) <= tokens
    assert is_subsequence(part, whole)
    if len(whole) <= tokens:
        assert part == whole
    elif (
        strategy != "sub_caption" or sum(len(tokenizer.body(piece)) for piece in split_sub_captions(caption)) >= tokens
    ):
        assert len(part) == tokens


@every_strategy
@given(caption=captions, tokens=st.integers(1, 40), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=200)
def test_contract(strategy: Strategy, caption: str, tokens: int, seed: int, small: WordPieceTokenizer) -> None:
    check_contract(caption, strategy, tokens, small, seed)


@every_strategy
@given(caption=st.text(max_size=60), tokens=st.integers(1, 20), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=100)
def test_contract_on_any_text(
    strategy: Strategy, caption: str, tokens: int, seed: int, bert: WordPieceTokenizer
) -> None:
    check_contract(caption, strategy, tokens, bert, seed)


@every_strategy
@pytest.mark.parametrize("tokens", [16, 32, 64, 128])
def test_contract_on_long_texts(
    strategy: Strategy, tokens: int, bert: WordPieceTokenizer, long_texts: list[str]
) -> None:
    for place, text in enumerate(long_texts):
        check_contract(text, strategy, tokens, bert, seed=place)


@every_strategy
def test_random_strategies_vary_and_truncation_does_not(strategy: Strategy, small: WordPieceTokenizer) -> None:
    text = "the dog is red. on the grass a dog. the grass is red! a dog on a dog."
    drawn = {tuple(fragment(text, FragmentConfig(strategy, 6), small, random.Random(seed)) or ()) for seed in range(50)}
    assert len(drawn) == 1 if strategy == "truncation" else len(drawn) > 3


@every_strategy
def test_without_budget(strategy: Strategy, small: WordPieceTokenizer) -> None:
    text = "a dog. the grass"
    part = fragment(text, FragmentConfig(strategy), small, random.Random(0))
    whole = small.body(text)
    assert part in ([small.body("a dog"), small.body("the grass")] if strategy == "sub_caption" else [whole])


@every_strategy
@pytest.mark.parametrize("tokens", [None, 5])
@pytest.mark.parametrize("caption", ["", "\u200b"])
def test_captions_without_pieces(
    strategy: Strategy, tokens: int | None, caption: str, small: WordPieceTokenizer
) -> None:
    # A zero-width space is a blank piece: the published rule keeps it and gives an empty text.
    expected = [] if (strategy, tokens, caption) == ("sub_caption", None, "\u200b") else None
    assert fragment(caption, FragmentConfig(strategy, tokens), small, random.Random(0)) == expected


def test_stops_only_have_no_piece_but_a_body(small: WordPieceTokenizer) -> None:
    for tokens in (None, 2, 9):
        assert fragment("!..", FragmentConfig("sub_caption", tokens), small, random.Random(0)) is None
    assert fragment("!..", FragmentConfig("truncation", 2), small, random.Random(0)) == small.body("!.")


def test_blank_pieces_are_kept_or_dropped(small: WordPieceTokenizer) -> None:
    keep, drop = FragmentConfig(), FragmentConfig(blank_pieces="drop")
    text = "a dog. "
    kept = Counter(tuple(fragment(text, keep, small, random.Random(seed)) or ()) for seed in range(400))
    assert kept.keys() == {(), tuple(small.body("a dog"))}
    assert 150 < kept[()] < 250
    assert all(fragment(text, drop, small, random.Random(seed)) == small.body("a dog") for seed in range(50))
    assert fragment(" . ", keep, small, random.Random(0)) == []
    assert fragment(" . ", drop, small, random.Random(0)) is None
    assert fragment(" . ", FragmentConfig("sub_caption", 9), small, random.Random(0)) is None


def test_one_sentence_is_uniform_over_pieces(small: WordPieceTokenizer) -> None:
    text = "a. b b b b b. c! d"
    drawn = Counter(tuple(fragment(text, FragmentConfig(), small, random.Random(seed)) or ()) for seed in range(4000))
    assert len(drawn) == 4
    assert all(880 < count < 1120 for count in drawn.values())


def test_one_sentence_captions(small: WordPieceTokenizer) -> None:
    text = "the dog is on the grass."
    assert fragment(text, FragmentConfig(), small, random.Random(0)) == small.body("the dog is on the grass")
    assert fragment(text, FragmentConfig("sub_caption", 7), small, random.Random(0)) == small.body(text)
    # One id short: the stop does not fit, the sentence does.
    assert fragment(text, FragmentConfig("sub_caption", 6), small, random.Random(0)) == small.body(text)[:6]
    assert fragment(text, FragmentConfig("sub_caption", 4), small, random.Random(0)) == small.body(text)[:4]


def test_sentences_fill_the_budget_and_only_the_last_drawn_is_truncated(small: WordPieceTokenizer) -> None:
    sentences = ["a b c", "d e f", "g h i", "j k l"]
    bodies = [tuple(small.body(text)) for text in sentences]
    cut = [body[:2] for body in bodies]
    seen = set()
    for seed in range(600):
        part = tuple(fragment(". ".join(sentences), FragmentConfig("sub_caption", 5), small, random.Random(seed)) or ())
        seen.add(part)
    # One whole, another truncated, in the order of the caption: both possibilities for each of the 6 pairs.
    expected = {bodies[i] + cut[j] for i in range(4) for j in range(i + 1, 4)}
    expected |= {cut[i] + bodies[j] for i in range(4) for j in range(i + 1, 4)}
    assert seen == expected


def test_sentences_with_clips_byte_pairs(clip_bpe: ClipBpeTokenizer, long_texts: list[str]) -> None:
    # CLIP joins signs such as '."' into one piece, so the whole body need not hold a sentence's ids: its pieces do.
    for place, text in enumerate(long_texts[:100]):
        part = fragment(text, FragmentConfig("sub_caption", 32), clip_bpe, random.Random(place))
        assert part is not None
        pieces = [index for piece in split_sub_captions(text) for index in clip_bpe.body(piece)]
        assert len(part) == min(32, len(pieces))
        assert is_subsequence(part, pieces)


def test_block_starts_are_uniform_and_inclusive() -> None:
    body = list(range(10))
    starts = Counter(block_mask(body, 7, random.Random(seed))[0] for seed in range(4000))
    assert starts.keys() == {0, 1, 2, 3}
    assert all(880 < count < 1120 for count in starts.values())
    assert block_mask(body, 7, random.Random(1)) in [body[start : start + 7] for start in range(4)]
    assert block_mask(body, 20, random.Random(0)) == body


def test_random_mask_keeps_order_and_each_place_equally() -> None:
    body = list(range(100, 110))
    kept: Counter[int] = Counter()
    for seed in range(4000):
        part = random_mask(body, 3, random.Random(seed))
        assert part == sorted(part)
        kept.update(part)
    assert kept.keys() == set(body)
    assert all(1080 < count < 1320 for count in kept.values())
    assert random_mask(body, 20, random.Random(0)) == body


@pytest.mark.parametrize(
    ("caption", "pieces"),
    [
        ("", []),
        ("...!", []),
        ("no stop", ["no stop"]),
        ("One. Two!! Three?", ["One", " Two", " Three?"]),
        ("a|b", ["a", "b"]),
        ("3.50", ["3", "50"]),
        ("end. ", ["end", " "]),
        ("… 。！", ["… 。！"]),
    ],
)
def test_published_rule(caption: str, pieces: list[str]) -> None:
    assert split_sub_captions(caption) == pieces


def test_configuration() -> None:
    config = FragmentConfig("block_mask", 32)
    assert from_mapping(FragmentConfig, to_mapping(config), "fragment") == config
    with pytest.raises(ConfigError, match=r"fragment\.tokens: 0 must be at least 1"):
        from_mapping(FragmentConfig, {"tokens": 0}, "fragment")
    with pytest.raises(ConfigError, match=r"fragment\.strategy: 'syntax'"):
        from_mapping(FragmentConfig, {"strategy": "syntax"}, "fragment")
    with pytest.raises(ConfigError, match="applies to sub_caption only"):
        FragmentConfig("truncation", 8, blank_pieces="drop")
