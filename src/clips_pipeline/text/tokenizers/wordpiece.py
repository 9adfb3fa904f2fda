"""BERT's uncased WordPiece tokenizer, with the same ids as the tokenizer of the published CLIPS code.

The authors use TensorFlow Text, which differs from Hugging Face's BERT in three ways that are kept here: text is normalized
by NFKC case folding (ß becomes ss, ™ becomes tm), the limit of 100 per word counts UTF-8 bytes, and names of special ids in
the text are ordinary text. In a comparison with TensorFlow Text 2.18 over all assigned code points, only some that are newer
than its Unicode tables differ. Chunks between whitespace are encoded independently, so that their ids can be cached.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import regex  # type: ignore[import-untyped, unused-ignore]

from clips_pipeline.config import ConfigError
from clips_pipeline.text.stream_safe import limit_marks
from clips_pipeline.text.tokenizers.tokenizer import VOCABULARY_FILE, ChunkTokenizer, read_limited

MAX_WORD_BYTES = 100
SUFFIX = "##"

_LONGEST_SHOWN = 40
IGNORABLE = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
MARKS = regex.compile(r"\p{Mn}+")
CONTROL = regex.compile(r"[\p{Cc}\p{Cf}]")
# Words of their own: punctuation, ASCII symbols and CJK ideographs. Other characters form words up to ASCII whitespace.
SINGLE = (
    r"!-/:-@\[-`{-~\p{P}"
    r"\u4E00-\u9FFF\u3400-\u4DBF\U00020000-\U0002A6DF\U0002A700-\U0002B73F\U0002B740-\U0002B81F"
    r"\U0002B820-\U0002CEAF\uF900-\uFAFF\U0002F800-\U0002FA1F"
)
_WORDS = regex.compile(rf"[{SINGLE}]|[^{SINGLE} \t\n\r\f]+")
# Whitespace in Python's `str.split` that is not whitespace in the published tokenizer (NFKC does not change them).
_NOT_WHITESPACE = regex.compile(r"[\u1680\u2028\u2029]")
_SPECIAL = regex.compile(r"\[.+\]", regex.DOTALL)
_ASCII_WHITESPACE = regex.compile(r"[ \t\n\r\f\v]+")


def fold(text: str) -> str:
    """Apply NFKC case folding, remove accents, and replace control and format characters by spaces.

    Default-ignorable characters (zero-width space, soft hyphen, variation selectors) are removed, and so are combining
    marks after 30 in a row (`stream_safe`).
    """
    if text.isascii():
        return str(CONTROL.sub(" ", text.lower()))
    folded = unicodedata.normalize("NFD", limit_marks(text))
    # Unicode's toNFKC_Casefold is a fixed point: compatibility forms may expand to capitals, and folding may
    # expose new compatibility forms.
    while True:
        once = unicodedata.normalize("NFKC", IGNORABLE.sub("", unicodedata.normalize("NFKC", folded).casefold()))
        if once == folded:
            break
        folded = once
    stripped = MARKS.sub("", unicodedata.normalize("NFD", folded))
    return str(CONTROL.sub(" ", stripped))


def split_chunks(text: str) -> list[str]:
    """Split at whitespace that `fold` does not affect, so that each chunk can be folded and split independently."""
    if text.isascii() or not _NOT_WHITESPACE.search(text):
        return text.split()
    return [chunk for chunk in _ASCII_WHITESPACE.split(text) if chunk]


def split_words(text: str) -> list[str]:
    """Return the folded words of `text`; punctuation characters and CJK ideographs are words of their own."""
    found: list[str] = _WORDS.findall(fold(text))
    return found


class WordPieceTokenizer(ChunkTokenizer):
    """WordPiece tokenizer (greedy longest match) with a `vocab.txt` in BERT's layout.

    The file has one piece per line and the line number is the id: PAD on line 0, BOS on line 1, EOS on line 2, and "[UNK]"
    and "[CLS]" anywhere. BERT's own file is valid: its lines 1 and 2, "[unused0]" and "[unused1]", are BOS and EOS, UNK is
    100 and CLS 101, as published.
    """

    kind: ClassVar[str] = "wordpiece"

    def __init__(self, pieces: Sequence[str], where: str = VOCABULARY_FILE) -> None:
        super().__init__()
        self.pieces = list(pieces)
        self.vocab_size = len(self.pieces)
        self._ids = {piece: index for index, piece in enumerate(self.pieces)}
        if len(self._ids) != self.vocab_size:
            twice = next(piece for index, piece in enumerate(self.pieces) if self._ids[piece] != index)
            raise ConfigError(f"{where}: piece {twice[:_LONGEST_SHOWN]!r} is on two lines; remove one")
        heads = self.pieces[:3]
        # Text cannot produce bracketed names, because brackets are words of their own.
        if len(heads) < 3 or heads[0] != "[PAD]" or not all(map(_SPECIAL.fullmatch, heads)):
            raise ConfigError(
                f"{where}: lines 0, 1, 2 must be [PAD], [BOS], [EOS] (or [unused0], [unused1]), found "
                f"{[head[:_LONGEST_SHOWN] for head in heads]}; correct the file"
            )
        for name in ("[UNK]", "[CLS]"):
            if name not in self._ids:
                raise ConfigError(f"{where}: no line {name}; add it after the first three lines")
        self.unk_id = self._ids["[UNK]"]
        self.cls_id = self._ids["[CLS]"]
        self._longest = max(map(len, self.pieces))

    @classmethod
    def from_vocab(cls, path: Path | str) -> "WordPieceTokenizer":
        """Read a `vocab.txt`.

        Raises:
            ConfigError: the file is missing, not UTF-8, or lacks a special piece (named in the message).
        """
        try:
            with Path(path).open("rb") as stream:
                text = read_limited(stream, path).decode("utf-8")
            # Not `splitlines`: a piece may be U+2028 or U+0085.
            lines = text.replace("\r\n", "\n").split("\n")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a vocab.txt") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: is not UTF-8 text; give the path of a vocab.txt") from None
        if lines and not lines[-1]:
            lines.pop()
        return cls(lines, where=str(path))

    def split_chunks(self, text: str) -> list[str]:
        """Split `text` with the module's `split_chunks`."""
        return split_chunks(text)

    def encode_chunk(self, chunk: str) -> list[int]:
        """Return the ids of a chunk. A word that no pieces match, or of more than 100 bytes, is one UNK."""
        return [index for word in split_words(chunk) for index in self._word(word)]

    def decode(self, ids: Sequence[int]) -> str:
        """Join pieces with spaces and suffix pieces with the previous piece. Case folding is not reversed."""
        text = ""
        for index in self._readable(ids):
            piece = self.pieces[index]
            text += piece.removeprefix(SUFFIX) if piece.startswith(SUFFIX) and piece != SUFFIX and text else " " + piece
        return text.strip()

    def piece(self, index: int) -> str:
        """Return the piece as in `vocab.txt`, with "##" before the rest of a word."""
        if not 0 <= index < self.vocab_size:
            raise ValueError(f"id {index} is outside this tokenizer's vocabulary of {self.vocab_size} pieces")
        return self.pieces[index]

    def save(self, folder: Path | str) -> None:
        """Write `vocab.txt` and `tokenizer_config.json` into `folder`."""
        target = self._write_config(folder) / VOCABULARY_FILE
        target.write_bytes(("\n".join(self.pieces) + "\n").encode("utf-8"))

    def _word(self, word: str) -> list[int]:
        # Lone surrogates (possible in JSON) cannot be encoded in UTF-8; they count as three bytes and become UNK.
        if len(word.encode("utf-8", "surrogatepass")) > MAX_WORD_BYTES:
            return [self.unk_id]
        ids: list[int] = []
        start = 0
        while start < len(word):
            prefix = SUFFIX if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                index = self._ids.get(prefix + word[start:end])
                if index is not None:
                    break
            else:
                return [self.unk_id]
            ids.append(index)
            start = end
        return ids
