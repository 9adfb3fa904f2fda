"""CLIP's byte-pair tokenizer in this project's row layout.

Pieces, merges and cleaning are CLIP's (Radford et al. 2021, arXiv 2103.00020); the special ids are not. In CLIP, "!" has id 0
and the two special ids are last; here special ids are first, as in every tokenizer of this project:

    PAD 0, BOS 1, EOS 2, UNK 3 (never used, since bytes cover all text), CLS 4, then CLIP's id + 5

A CLIP embedding table can therefore be used after a shift by `OFFSET` rows. CLIP's names of special tokens
("<|endoftext|>") are ordinary text here.
"""

import gzip
import html
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar, cast

import ftfy
import regex  # type: ignore[import-untyped, unused-ignore]
from tokenizers.models import BPE

from clips_pipeline.config import ConfigError
from clips_pipeline.text.stream_safe import limit_marks
from clips_pipeline.text.tokenizers.tokenizer import MERGES_FILE, ChunkTokenizer, read_limited

OFFSET = 5
"""Offset of ids relative to CLIP's."""

_MERGES = 48_894
"""Number of merges that CLIP reads from its longer file. With 2 x 256 byte symbols and 2 special ids: 49,408 pieces."""

_LONGEST_SHOWN = 40
_END = "</w>"
# ASCII text without control characters and "&" needs no repair; the repair is slow.
_NEEDS_NO_REPAIR = regex.compile(r"[ -%'-~\t\n\r]*")
# Characters; in a shorter text, a run of marks takes milliseconds.
_LONG = 2_000
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


def clean(text: str) -> str:
    """Clean text as CLIP does: repair mojibake, unescape HTML entities twice, collapse whitespace, convert to lower case.

    Of more than 30 combining marks in a row, the others are removed first (`stream_safe`).
    """
    if not _NEEDS_NO_REPAIR.fullmatch(text):
        text = html.unescape(html.unescape(_repair(text)))
    return " ".join(text.split()).lower()


def _repair(text: str) -> str:
    text = limit_marks(text)
    if len(text) > _LONG:
        # Entities and mojibake are repaired to marks, too; `fix_text` normalizes after that.
        repaired = ftfy.fix_text(text, normalization=None)
        limited = limit_marks(repaired)
        text = text if limited == repaired else limited
    return str(ftfy.fix_text(text))


class ClipBpeTokenizer(ChunkTokenizer):
    """Byte-pair encoding with merges by rank and an end-of-word suffix."""

    kind: ClassVar[str] = "clip_bpe"

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._byte_symbols = _byte_symbols()
        self._symbol_bytes = {sign: byte for byte, sign in self._byte_symbols.items()}
        signs = list(self._byte_symbols.values())
        self._merges = list(merges)
        self._pieces = [*signs, *(sign + _END for sign in signs), *(first + second for first, second in merges)]
        self._ids = {piece: index + OFFSET for index, piece in enumerate(self._pieces)}
        self._bpe = self.byte_pairs()
        self.vocab_size = OFFSET + len(self._pieces)
        self.unk_id = 3
        self.cls_id = 4

    @classmethod
    def from_merges(cls, path: Path | str) -> "ClipBpeTokenizer":
        """Read CLIP's gzip file of merges: a comment line, then one pair per line in order of rank.

        Raises:
            ConfigError: the file is missing or not gzip, or a line is not a pair of known pieces.
        """
        try:
            with gzip.open(path) as stream:
                lines = read_limited(cast(BinaryIO, stream), path).decode("utf-8").split("\n")
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: cannot be read ({error}); give the path of CLIP's bpe_simple_vocab_16e6.txt.gz"
            ) from None
        return cls.from_lines(lines[1 : _MERGES + 1], path, first=2)

    @classmethod
    def from_lines(cls, lines: Sequence[str], path: Path | str, first: int = 1) -> "ClipBpeTokenizer":
        """Make a tokenizer of merges, one pair per line in order of rank, up to an empty line.

        Args:
            lines: the pairs, with a space between both pieces.
            path: their file, for messages.
            first: number of the first line in the file.

        Raises:
            ConfigError: a line is not a pair of known pieces, or there is none.
        """
        merges = []
        signs = list(_byte_symbols().values())
        known = {*signs, *(sign + _END for sign in signs)}
        for number, line in enumerate(lines, start=first):
            pair = tuple(line.split())
            if not pair:
                break
            if len(pair) != 2 or not known.issuperset(pair):
                raise ConfigError(
                    f"{path}: line {number} ({line[:_LONGEST_SHOWN]!r}) is not a pair of known pieces; download the file again"
                )
            merges.append((pair[0], pair[1]))
            known.add(pair[0] + pair[1])
        if not merges:
            raise ConfigError(f"{path}: contains no merges; give the path of CLIP's bpe_simple_vocab_16e6.txt.gz")
        return cls(merges)

    def pieces(self) -> dict[str, int]:
        """Return the id of each piece that is no special id."""
        return dict(self._ids)

    def byte_pairs(self, special: Sequence[str] = ()) -> BPE:
        """Return the merges as a model of `tokenizers`, which knows names of special ids only where they are given.

        Args:
            special: names of the ids below `OFFSET`, in their order.
        """
        ids = {name: index for index, name in enumerate(special)} | self._ids
        return BPE(ids, self._merges, end_of_word_suffix=_END)

    def split_chunks(self, text: str) -> list[str]:
        """Return the cleaned text split at whitespace, since no word contains whitespace."""
        return clean(text).split()

    def encode_chunk(self, chunk: str) -> list[int]:
        """Return the ids of the words of a chunk."""
        # `clean` has replaced lone surrogates, which cannot be encoded in UTF-8, by U+FFFD.
        signs = ("".join(map(self._byte_symbols.__getitem__, word.encode("utf-8"))) for word in WORDS.findall(chunk))
        return [token.id for word in signs for token in self._bpe.tokenize(word)]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids, with a space after each word. Invalid UTF-8 becomes U+FFFD, UNK becomes "[UNK]"."""
        text = ""
        run: list[str] = []
        for index in [*self._readable(ids), self.unk_id]:
            if index != self.unk_id:
                run.append(self._pieces[index - OFFSET])
                continue
            joined = "".join(run).replace(_END, " ")
            text += bytes(self._symbol_bytes.get(sign, 32) for sign in joined).decode("utf-8", "replace") + "[UNK] "
            run = []
        return text.removesuffix("[UNK] ").strip()

    def save(self, folder: Path | str) -> None:
        """Write `merges.txt.gz` (byte-reproducible) and `tokenizer_config.json` into `folder`."""
        lines = ["#version: clips-pipeline", *(f"{first} {second}" for first, second in self._merges)]
        packed = gzip.compress(("\n".join(lines) + "\n").encode("utf-8"), mtime=0)
        (self._write_config(folder) / MERGES_FILE).write_bytes(packed)


def _byte_symbols() -> dict[int, str]:
    """Map each of the 256 bytes to a printable character, in CLIP's order: printable Latin-1 unchanged, others from U+0100."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    signs = {byte: chr(byte) for byte in visible}
    hidden = [byte for byte in range(256) if byte not in signs]
    return {**signs, **{byte: chr(256 + rank) for rank, byte in enumerate(hidden)}}
