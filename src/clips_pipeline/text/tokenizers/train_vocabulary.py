"""Train a WordPiece vocabulary on one's own captions: the same captions give the same bytes.

The `tokenizers` library's own WordPiece trainer numbers suffix pieces in the order of a randomly seeded hash map and
breaks ties by those numbers, so two runs give two vocabularies. Its byte-pair trainer numbers the alphabet in order,
and both learn the same merges otherwise. So each letter inside a word is written as a private-use character of its own,
the byte-pair trainer runs on that, and the private characters are read back as suffix pieces.
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
"""The first pieces of every trained vocabulary; the place is the id."""

MIN_VOCAB_SIZE = 64
_PRIVATE = 0xF0000
_LETTERS_SHARE = 0.5
_MIN_COUNT = 2


def train_wordpiece(captions: Iterable[str], vocab_size: int, out_dir: Path | str) -> WordPieceTokenizer:
    """Learn a vocabulary and save it as a tokenizer folder.

    Words are folded and split exactly as the tokenizer does later. At most half of the vocabulary goes to single
    letters, the most frequent first; words with a rarer letter teach nothing and are UNK later. Pairs seen once are not
    merged, so few captions may fill fewer than `vocab_size` pieces.

    Args:
        captions: read once, in any order: the order does not change the result.
        vocab_size: the largest number of pieces, specials included.
        out_dir: where `vocab.txt` and `tokenizer_config.json` go.

    Raises:
        ConfigError: `vocab_size` below 64, or captions without any word.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(f"vocab_size: {vocab_size} has no room for letters and pieces; use {MIN_VOCAB_SIZE} or more")
    counts = _count(captions)
    if not counts:
        raise ConfigError("captions: none holds a word; a vocabulary needs captions to learn from")
    letters = _letters(counts, int((vocab_size - len(SPECIALS)) * _LETTERS_SHARE))
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
            # Private-use characters would clash with the code below, and lone surrogates have no UTF-8 form.
            if any(unicodedata.category(sign) in ("Co", "Cs") for sign in word):
                continue
            if len(word.encode("utf-8")) <= MAX_WORD_BYTES:
                counts[word] += count
    return counts


def _forms(word: str) -> list[str]:
    return [word[0], *(SUFFIX + letter for letter in word[1:])]


def _letters(counts: Counter[str], most: int) -> list[str]:
    """The most frequent letters, with suffix letters ("##a") apart, in alphabetical order."""
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
    # Imported here because reading captions does not need it, and it watches every fork of the process.
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
