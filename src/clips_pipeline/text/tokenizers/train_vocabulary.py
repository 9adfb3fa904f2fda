"""Reproducible training of a WordPiece vocabulary: the same captions give the same bytes.

The WordPiece trainer of the `tokenizers` library numbers suffix pieces in the order of a randomly seeded hash map and breaks
ties by these numbers, so two runs give two vocabularies. Its BPE trainer numbers the alphabet in order and learns the same
merges otherwise. Therefore each letter inside a word is encoded as a private-use character, the BPE trainer runs on the
encoded words, and the private-use characters are decoded to suffix pieces.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.text.tokenizers.wordpiece import (
    MAX_WORD_BYTES,
    SUFFIX,
    WordPieceTokenizer,
    split_chunks,
    split_words,
)

SPECIALS = ("[PAD]", "[BOS]", "[EOS]", "[UNK]", "[CLS]")
"""The first pieces of every trained vocabulary; the position is the id."""

MIN_VOCAB_SIZE = 64
_PRIVATE = 0xF0000
_LETTERS_FRACTION = 0.5
_MIN_COUNT = 2


def train_wordpiece(captions: Iterable[str], vocab_size: int, out_dir: Path | str) -> WordPieceTokenizer:
    """Train a vocabulary and save it as a tokenizer folder.

    Words are folded and split as in the tokenizer. At most half of the vocabulary consists of single letters, the most
    frequent first. Words with a rarer letter are ignored here and become UNK later. Pairs that occur once are not merged, so
    the vocabulary may have fewer than `vocab_size` pieces.

    Args:
        captions: captions in any order, which does not affect the result; iterated once.
        vocab_size: maximum number of pieces, including special ids.
        out_dir: folder for `vocab.txt` and `tokenizer_config.json`.

    Raises:
        ConfigError: `vocab_size` is below 64, or the captions contain no words.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(f"vocab_size: {vocab_size} is too small for letters and pieces; use {MIN_VOCAB_SIZE} or more")
    counts = _count(captions)
    if not counts:
        raise ConfigError("captions: contain no words; give captions with text to train the vocabulary on")
    letters = _letters(counts, int((vocab_size - len(SPECIALS)) * _LETTERS_FRACTION))
    code = {form: form if len(form) == 1 else chr(_PRIVATE + place) for place, form in enumerate(letters)}
    pieces = _merge(_coded(counts, code), vocab_size)
    plain = {sign: form.removeprefix(SUFFIX) if len(form) > 1 else form for form, sign in code.items()}
    spelled = []
    for piece in pieces[len(SPECIALS) :]:
        text = "".join(plain[sign] for sign in piece)
        spelled.append(SUFFIX + text if ord(piece[0]) >= _PRIVATE else text)
    tokenizer = WordPieceTokenizer([*SPECIALS, *spelled])
    tokenizer.save(out_dir)
    return tokenizer


def _count(captions: Iterable[str]) -> Counter[str]:
    chunk_counts = Counter(chunk for caption in captions for chunk in split_chunks(caption))
    counts: Counter[str] = Counter()
    for chunk, count in chunk_counts.items():
        for word in split_words(chunk):
            # Private-use characters would collide with the encoding below; lone surrogates cannot be encoded in UTF-8.
            if any(unicodedata.category(sign) in ("Co", "Cs") for sign in word):
                continue
            if len(word.encode("utf-8")) <= MAX_WORD_BYTES:
                counts[word] += count
    return counts


def _forms(word: str) -> list[str]:
    return [word[0], *(SUFFIX + letter for letter in word[1:])]


def _letters(counts: Counter[str], most: int) -> list[str]:
    """Return the most frequent letters in alphabetical order; suffix letters ("##a") count separately."""
    found: Counter[str] = Counter()
    for word, count in counts.items():
        for form in _forms(word):
            found[form] += count
    ranked = sorted(found, key=lambda form: (-found[form], form))
    return sorted(ranked[:most])


def _coded(counts: Counter[str], code: dict[str, str]) -> Iterator[str]:
    for word, count in counts.items():
        forms = _forms(word)
        if all(form in code for form in forms):
            coded = "".join(code[form] for form in forms)
            for start in range(0, count, 1000):
                yield " ".join([coded] * min(1000, count - start))


def _merge(lines: Iterable[str], vocab_size: int) -> list[str]:
    # Imported here because only training needs it and it installs a fork handler.
    from tokenizers import Tokenizer as Library
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.trainers import BpeTrainer

    library = Library(BPE())
    library.pre_tokenizer = WhitespaceSplit()
    trainer = BpeTrainer(
        vocab_size=vocab_size, min_frequency=_MIN_COUNT, special_tokens=list(SPECIALS), show_progress=False
    )
    library.train_from_iterator(lines, trainer)
    ids = library.get_vocab()
    return sorted(ids, key=ids.__getitem__)
