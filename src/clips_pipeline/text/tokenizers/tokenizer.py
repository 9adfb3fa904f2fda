"""Tokenizer interface, row layout, and loading of saved tokenizers.

A *body* is the list of ids of a text without special ids. Models read *rows*:

    encoder row (length L):  BOS body EOS PAD ... PAD CLS      input of the text tower, which pools the last position
    target row  (length T):  BOS body EOS PAD ... PAD          target of the captioner

Layout and truncation are those of the published code (CLIPS paper, section 3; golden vectors of its authors' JAX code).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from clips_pipeline.config import ConfigError

CONFIG_FILE = "tokenizer_config.json"
"""File with the kind of tokenizer of a saved folder."""

VOCABULARY_FILE = "vocab.txt"
"""One piece per line; the line number is the id (WordPiece)."""

MERGES_FILE = "merges.txt.gz"
"""Merge rules in order (CLIP's byte-pair encoding)."""

MAX_FILE_BYTES = 1 << 24
"""Limit of each file of a tokenizer, unpacked, in bytes. CLIP's merges have 3 million."""

_LONGEST_SHOWN = 40
_CACHE_ENTRIES = 200_000
_LONGEST_IN_CACHE = 100


class Tokenizer(ABC):
    """Text to ids and back.

    Attributes:
        vocab_size: ids are 0 .. vocab_size - 1. A model's embedding table may be larger (the published one has 32,000 rows
            for 30,522 pieces), never smaller.
        pad_id, bos_id, eos_id: 0, 1 and 2 for every tokenizer, so that models and losses can rely on them.
        unk_id: id of words that the vocabulary cannot represent.
        cls_id: last id of an encoder row.
    """

    kind: ClassVar[str]
    pad_id: ClassVar[int] = 0
    bos_id: ClassVar[int] = 1
    eos_id: ClassVar[int] = 2
    vocab_size: int
    unk_id: int
    cls_id: int

    @abstractmethod
    def body(self, text: str) -> list[int]:
        """Return the ids of `text` without special ids. Names of special ids in the text ("[CLS]") are ordinary text."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a body or a row. Stops at the first EOS, skips PAD, BOS and CLS.

        Raises:
            ValueError: an id is outside 0 .. vocab_size - 1.
        """

    def piece(self, index: int) -> str:
        """Return the piece of text of one id, for display.

        Raises:
            ValueError: the id is outside 0 .. vocab_size - 1.
        """
        return self.decode([index])

    @abstractmethod
    def save(self, folder: Path | str) -> None:
        """Write the files that `load_tokenizer` reads into `folder`, which is created if missing."""

    def encoder_row(self, body: Sequence[int], length: int) -> list[int]:
        """Return a text tower row of exactly `length` ids: BOS body EOS PAD .. CLS.

        A body longer than `length - 3` is truncated; BOS, EOS and CLS are always present.

        Raises:
            ConfigError: `length` is below 3.
            TypeError: `body` is a text.
        """
        _refuse_text(body)
        if length < 3:
            raise ConfigError(f"context_length: {length} is too short for BOS, EOS and CLS; use 4 or more")
        kept = list(body[: length - 3])
        return [self.bos_id, *kept, self.eos_id, *[self.pad_id] * (length - 3 - len(kept)), self.cls_id]

    def target_row(self, body: Sequence[int], length: int) -> list[int]:
        """Return a target row of exactly `length` ids: BOS body EOS PAD .., without CLS.

        A body longer than `length - 2` is truncated and the last id is EOS. The captioner's labels are this row shifted left
        by one with PAD appended. Every label other than PAD counts, including EOS, also after truncation: at most
        `length - 1` labels.

        Raises:
            ConfigError: `length` is below 2.
            TypeError: `body` is a text.
        """
        _refuse_text(body)
        if length < 2:
            raise ConfigError(f"target_length: {length} is too short for BOS and EOS; use 3 or more")
        kept = list(body[: length - 2])
        return [self.bos_id, *kept, self.eos_id, *[self.pad_id] * (length - 2 - len(kept))]

    def encode(self, text: str, length: int) -> list[int]:
        """Return the encoder row of a text, as a model's `encode_text` reads it."""
        return self.encoder_row(self.body(text), length)

    def _readable(self, ids: Sequence[int]) -> list[int]:
        """Return the ids of `ids` that represent text."""
        kept = []
        for index in ids:
            if index == self.eos_id:
                break
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"id {index} is outside this tokenizer's vocabulary of {self.vocab_size} pieces")
            if index not in (self.pad_id, self.bos_id, self.cls_id):
                kept.append(index)
        return kept

    def _write_config(self, folder: Path | str) -> Path:
        """Create `folder`, write the file with the kind of tokenizer, and return the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        ids = {"pad": self.pad_id, "bos": self.bos_id, "eos": self.eos_id, "unk": self.unk_id, "cls": self.cls_id}
        content = {"kind": self.kind, "vocab_size": self.vocab_size, "special_ids": ids}
        (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return folder


class ChunkTokenizer(Tokenizer):
    """A tokenizer that encodes chunks between whitespace independently and caches their ids."""

    def __init__(self) -> None:
        self._cache: dict[str, tuple[int, ...]] = {}

    @abstractmethod
    def split_chunks(self, text: str) -> list[str]:
        """Split `text` into chunks whose ids do not depend on each other."""

    @abstractmethod
    def encode_chunk(self, chunk: str) -> list[int]:
        """Return the ids of one chunk."""

    def body(self, text: str) -> list[int]:
        """Return the ids of `text` without special ids."""
        cache = self._cache
        ids: list[int] = []
        for chunk in self.split_chunks(text):
            found = cache.get(chunk)
            if found is None:
                found = tuple(self.encode_chunk(chunk))
                if len(cache) >= _CACHE_ENTRIES:
                    cache.clear()
                # A web caption may contain kilobytes without whitespace; such chunks do not recur.
                if len(chunk) <= _LONGEST_IN_CACHE:
                    cache[chunk] = found
            ids += found
        return ids

    def __getstate__(self) -> dict[str, Any]:
        # The cache is not pickled; loader workers fill their own.
        return {**self.__dict__, "_cache": {}}


def _refuse_text(body: object) -> None:
    if isinstance(body, str):
        raise TypeError(f"expected ids, got the text {body[:40]!r}; pass tokenizer.body(text), or use encode")


def read_limited(stream: BinaryIO, path: Path | str) -> bytes:
    """Read a file of a tokenizer to its end.

    Args:
        stream: the open file; may decompress.
        path: its path, for the message.

    Raises:
        ConfigError: it has more than `MAX_FILE_BYTES`. No more of it is read.
    """
    content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: has more than {MAX_FILE_BYTES} bytes; use the files of a published tokenizer")
    return content


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Load a tokenizer that `save` wrote, or a folder with a WordPiece `vocab.txt`.

    Without a `kind` in the configuration (a folder of other software), the kind follows from the files.

    Raises:
        ConfigError: the folder or its files do not exist, the kind is unknown, or a file is invalid.
    """
    # Imported here because both modules import this one.
    from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer
    from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

    folder = Path(folder)
    config_path = folder / CONFIG_FILE
    kind = None
    if config_path.is_file():
        try:
            with config_path.open("rb") as stream:
                content = json.loads(read_limited(stream, config_path))
        except ConfigError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{config_path}: not JSON ({error}); save the tokenizer again") from None
        kind = content.get("kind") if isinstance(content, dict) else None
    if kind is None:
        kind = "clip_bpe" if (folder / MERGES_FILE).is_file() else "wordpiece"
    if kind == WordPieceTokenizer.kind:
        return WordPieceTokenizer.from_vocab(folder / VOCABULARY_FILE)
    if kind == ClipBpeTokenizer.kind:
        return ClipBpeTokenizer.from_merges(folder / MERGES_FILE)
    raise ConfigError(
        f"{config_path}: unknown tokenizer kind {str(kind)[:_LONGEST_SHOWN]!r}; known: wordpiece, clip_bpe"
    )
