"""BERT's uncased WordPiece, equal to the tokenizer of the published CLIPS code id for id.

The authors tokenise with TensorFlow Text, which differs from Hugging Face's BERT in three ways kept here: text is
folded by NFKC case folding (ß becomes ss, ™ becomes tm), the limit of 100 per word counts UTF-8 bytes, and names of
specials in the text are ordinary text. Compared with TensorFlow Text 2.18 over every assigned code point, only some
that are newer than its Unicode tables differ. Every step looks at one stretch between blanks only, so that a table from
stretch to ids answers nearly all words of a caption.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import regex  # type: ignore[import-untyped, unused-ignore]

from clips_pipeline.config import ConfigError
from clips_pipeline.text.tokenizers.tokenizer import VOCABULARY_FILE, ChunkTokenizer

MAX_WORD_BYTES = 100
SUFFIX = "##"

_IGNORABLE = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
_MARKS = regex.compile(r"\p{Mn}+")
_CONTROL = regex.compile(r"[\p{Cc}\p{Cf}]")
# Alone: punctuation, the ASCII signs, and CJK ideographs. Together: everything else up to an ASCII blank.
_ALONE = (
    r"!-/:-@\[-`{-~\p{P}"
    r"\u4E00-\u9FFF\u3400-\u4DBF\U00020000-\U0002A6DF\U0002A700-\U0002B73F\U0002B740-\U0002B81F"
    r"\U0002B820-\U0002CEAF\uF900-\uFAFF\U0002F800-\U0002FA1F"
)
_WORDS = regex.compile(rf"[{_ALONE}]|[^{_ALONE} \t\n\r\f]+")
# Blanks for Python's `str.split` that the published tokenizer takes for letters (NFKC leaves them as they are).
_NOT_BLANK = regex.compile(r"[\u1680\u2028\u2029]")
_SPECIAL = regex.compile(r"\[.+\]", regex.DOTALL)
_ASCII_BLANKS = regex.compile(r"[ \t\n\r\f\v]+")


def fold(text: str) -> str:
    """NFKC case folding, accents removed, control and format characters turned into blanks.

    Default-ignorable characters (zero-width space, soft hyphen, variation selectors) vanish without a blank.
    """
    if text.isascii():
        return str(_CONTROL.sub(" ", text.lower()))
    folded = unicodedata.normalize("NFD", text)
    # Unicode's toNFKC_Casefold is a fixed point: compatibility forms may expand to capitals, and folding may
    # expose new compatibility forms.
    while True:
        once = unicodedata.normalize("NFKC", _IGNORABLE.sub("", unicodedata.normalize("NFKC", folded).casefold()))
        if once == folded:
            break
        folded = once
    stripped = _MARKS.sub("", unicodedata.normalize("NFD", folded))
    return str(_CONTROL.sub(" ", stripped))


def split_chunks(text: str) -> list[str]:
    """Split at the blanks that never matter to `fold`: each stretch can be folded and split alone."""
    if text.isascii() or not _NOT_BLANK.search(text):
        return text.split()
    return [chunk for chunk in _ASCII_BLANKS.split(text) if chunk]


def split_words(text: str) -> list[str]:
    """Folded words of `text`, each punctuation sign and each CJK ideograph a word of its own."""
    found: list[str] = _WORDS.findall(fold(text))
    return found


class WordPieceTokenizer(ChunkTokenizer):
    """Longest piece first, from a `vocab.txt` in BERT's layout.

    The file holds one piece per line and the line number is the id: PAD on line 0, BOS on line 1, EOS on line 2, and
    "[UNK]" and "[CLS]" anywhere. BERT's own file fits: its lines 1 and 2, "[unused0]" and "[unused1]", serve as BOS and
    EOS, UNK is 100 and CLS 101, as published.
    """

    kind: ClassVar[str] = "wordpiece"

    def __init__(self, pieces: Sequence[str], where: str = VOCABULARY_FILE) -> None:
        super().__init__()
        self.pieces = list(pieces)
        self.vocab_size = len(self.pieces)
        self._ids = {piece: index for index, piece in enumerate(self.pieces)}
        if len(self._ids) != self.vocab_size:
            twice = next(piece for index, piece in enumerate(self.pieces) if self._ids[piece] != index)
            raise ConfigError(f"{where}: piece {twice!r} stands on two lines; ids must be unique")
        heads = self.pieces[:3]
        # Bracketed names cannot be spelled by text, because brackets are words of their own: no caption can forge one.
        if len(heads) < 3 or heads[0] != "[PAD]" or not all(map(_SPECIAL.fullmatch, heads)):
            raise ConfigError(
                f"{where}: lines 0, 1, 2 must be [PAD], [BOS], [EOS] (or [unused0], [unused1]); are {heads}"
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
            ConfigError: the file is missing, not UTF-8, or lacks a special (the message says which line).
        """
        try:
            # Not splitlines: a piece may be U+2028 or U+0085.
            lines = Path(path).read_bytes().decode("utf-8").replace("\r\n", "\n").split("\n")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a vocab.txt") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: is not UTF-8 text; give the path of a vocab.txt") from None
        if lines and not lines[-1]:
            lines.pop()
        return cls(lines, where=str(path))

    def split_chunks(self, text: str) -> list[str]:
        """As the function of this name."""
        return split_chunks(text)

    def encode_chunk(self, chunk: str) -> list[int]:
        """A word that the pieces cannot spell or above 100 bytes is one UNK."""
        return [index for word in split_words(chunk) for index in self._word(word)]

    def decode(self, ids: Sequence[int]) -> str:
        """Pieces joined by blanks, suffix pieces joined to the piece before. Folding is not undone."""
        text = ""
        for index in self._readable(ids):
            piece = self.pieces[index]
            text += piece.removeprefix(SUFFIX) if piece.startswith(SUFFIX) and piece != SUFFIX and text else " " + piece
        return text.strip()

    def save(self, folder: Path | str) -> None:
        """Write `vocab.txt` and `tokenizer_config.json` into `folder`."""
        target = self._write_config(folder) / VOCABULARY_FILE
        target.write_bytes(("\n".join(self.pieces) + "\n").encode("utf-8"))

    def _word(self, word: str) -> list[int]:
        # Lone surrogates (JSON can hold them) have no UTF-8 form; they count three bytes and end as UNK.
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
