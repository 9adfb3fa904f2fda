"""Tokenizers and texts for the tests of `clips_pipeline.text`."""

import json
import string
from pathlib import Path

import pytest

from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer


@pytest.fixture(scope="session")
def bert(fixtures_dir: Path) -> WordPieceTokenizer:
    return WordPieceTokenizer.from_vocab(fixtures_dir / "bert_base_uncased_vocab.txt")


@pytest.fixture(scope="session")
def clip_bpe(fixtures_dir: Path) -> ClipBpeTokenizer:
    return ClipBpeTokenizer.from_merges(fixtures_dir / "bpe_simple_vocab_16e6.txt.gz")


@pytest.fixture(scope="session")
def small() -> WordPieceTokenizer:
    """Tokenizer that encodes ASCII words letter by letter, without a vocabulary file."""
    letters = [*string.ascii_lowercase, *string.digits]
    words = ["a", "dog", "the", "on", "grass", "is", "red"]
    pieces = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "[CLS]", *string.punctuation, *letters]
    pieces += [f"##{letter}" for letter in letters]
    return WordPieceTokenizer([*pieces, *(word for word in words if word not in pieces)])


@pytest.fixture(scope="session")
def long_texts(fixtures_dir: Path) -> list[str]:
    sets = json.loads((fixtures_dir / "long_text_ccby.json").read_text(encoding="utf-8"))
    return [text for texts in sets.values() for text in texts]


@pytest.fixture(scope="session")
def photo_captions(fixtures_dir: Path) -> list[str]:
    photos = json.loads((fixtures_dir / "captions.json").read_text(encoding="utf-8"))
    return [caption for photo in photos for caption in photo["captions"]]
