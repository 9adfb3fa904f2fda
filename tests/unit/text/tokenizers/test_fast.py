"""Tokenizers for Hugging Face's libraries against ours."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Fast

from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer, clean
from clips_pipeline.text.tokenizers.fast import fast_tokenizer, special_names
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

# Newer than the Unicode tables of `tokenizers`, but for the medieval Cyrillic letters and U+037A.
DIFFERENT = {
    *(0x37A, 0x32FF, 0x1F16C),
    *range(0x1C80, 0x1C87),
    *range(0xA7F2, 0xA7F5),
    *range(0x10780, 0x107BB),
    *range(0x1FBF0, 0x1FBFA),
}


@pytest.fixture(scope="module")
def wordpiece(fixtures_dir: Path) -> WordPieceTokenizer:
    return WordPieceTokenizer.from_vocab(fixtures_dir / "bert_base_uncased_vocab.txt")


@pytest.fixture(scope="module")
def fast_wordpiece(wordpiece: WordPieceTokenizer) -> Fast:
    return fast_tokenizer(wordpiece)


@pytest.fixture(scope="module")
def clip_bpe(fixtures_dir: Path) -> ClipBpeTokenizer:
    return ClipBpeTokenizer.from_merges(fixtures_dir / "bpe_simple_vocab_16e6.txt.gz")


@pytest.fixture(scope="module")
def texts(fixtures_dir: Path) -> list[str]:
    """Captions, long texts and class names."""
    files = ("captions.json", "long_text_ccby.json", "classnames.json")
    return [text for file in files for text in strings(json.loads((fixtures_dir / file).read_text()))]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


UNUSUAL = [
    "[CLS] [PAD] <|endoftext|> [unused0]",
    "don't I'M It'S",
    "12ab３ ﬁ STRASSE straße ΟΔΟΣ",
    "İstanbul 日本語 ™ ½ café",
]


def test_wordpiece_has_the_same_ids(wordpiece: WordPieceTokenizer, texts: list[str]) -> None:
    fast = fast_tokenizer(wordpiece)
    assert len(texts) > 1_000
    for text in [*texts, *UNUSUAL]:
        assert fast.encode(text, add_special_tokens=False).ids == wordpiece.body(text), text


def test_clip_bpe_has_the_same_ids_on_clean_text(clip_bpe: ClipBpeTokenizer, texts: list[str]) -> None:
    fast = fast_tokenizer(clip_bpe)
    for text in [*texts, *UNUSUAL]:
        assert fast.encode(clean(text), add_special_tokens=False).ids == clip_bpe.body(text), text


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(max_codepoint=0x7F), max_size=80))
def test_ascii_text_has_the_same_ids(wordpiece: WordPieceTokenizer, fast_wordpiece: Fast, text: str) -> None:
    assert fast_wordpiece.encode(text, add_special_tokens=False).ids == wordpiece.body(text)


# Later tables have letters that the library's tables lack.
@pytest.mark.skipif(unicodedata.unidata_version != "14.0.0", reason="the list is that of Python 3.11's tables")
def test_code_points_that_differ_are_known(wordpiece: WordPieceTokenizer) -> None:
    fast = fast_tokenizer(wordpiece)
    letters = (chr(code) for code in range(0, 0x30000, 5) if not 0xD800 <= code < 0xE000)
    assigned = [letter for letter in letters if unicodedata.category(letter) not in ("Cn", "Co")]
    differ = {
        ord(letter)
        for letter in assigned
        if fast.encode(f"a{letter}b {letter}", add_special_tokens=False).ids != wordpiece.body(f"a{letter}b {letter}")
    }
    assert len(assigned) > 20_000
    assert differ <= DIFFERENT


def test_special_ids_have_names(wordpiece: WordPieceTokenizer, clip_bpe: ClipBpeTokenizer) -> None:
    for tokenizer in (wordpiece, clip_bpe):
        fast, names = fast_tokenizer(tokenizer), special_names(tokenizer)
        ids = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.cls_id)
        assert tuple(fast.token_to_id(name) for name in names.values()) == ids
        assert fast.get_vocab_size() == tokenizer.vocab_size
