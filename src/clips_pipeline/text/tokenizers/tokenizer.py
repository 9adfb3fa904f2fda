"""What every tokenizer of this project does, and how a saved one is found again.

A *body* is the list of ids of a text without any special id. Models never see bodies, they see *rows*:

    encoder row (length L):  BOS body EOS PAD ... PAD CLS      the text tower pools the last place
    target row  (length T):  BOS body EOS PAD ... PAD          what the captioner must write

Layout and truncation are those of the published code (CLIPS paper, section 3; golden vectors of its authors' JAX code).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from clips_pipeline.config import ConfigError

CONFIG_FILE = "tokenizer_config.json"
"""Names the kind of tokenizer in a saved folder."""

VOCABULARY_FILE = "vocab.txt"
"""One piece per line, the line number is the id (WordPiece)."""

MERGES_FILE = "merges.txt.gz"
"""Merge rules in order (CLIP's byte pairs)."""

_CACHE_ENTRIES = 200_000
_LONGEST_IN_CACHE = 100


class Tokenizer(ABC):
    """Text to ids and back.

    Attributes:
        vocab_size: ids in use are 0 .. vocab_size - 1. A model's embedding table may be larger (the published one has
            32,000 rows for 30,522 pieces), never smaller.
        pad_id, bos_id, eos_id: 0, 1 and 2 for every tokenizer, so that models and losses need not ask.
        unk_id: stands for a word that the vocabulary cannot spell.
        cls_id: last place of an encoder row.
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
        """Ids of `text` without specials. Names of specials in the text ("[CLS]") are ordinary text; never raises."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Readable text of a body or a row: stops at the first EOS, skips PAD, BOS and CLS.

        Raises:
            ValueError: an id outside 0 .. vocab_size - 1.
        """

    @abstractmethod
    def save(self, folder: Path | str) -> None:
        """Write everything `load_tokenizer` needs into `folder`, which is made if missing."""

    def encoder_row(self, body: Sequence[int], length: int) -> list[int]:
        """The text tower's row of exactly `length` ids: BOS body EOS PAD .. CLS.

        A body longer than `length - 3` is cut at its end; BOS, EOS and CLS are always there.

        Raises:
            ConfigError: `length` below 3.
            TypeError: `body` is a text.
        """
        _refuse_text(body)
        if length < 3:
            raise ConfigError(f"context_length: {length} leaves no room for BOS, EOS and CLS; use 4 or more")
        kept = list(body[: length - 3])
        return [self.bos_id, *kept, self.eos_id, *[self.pad_id] * (length - 3 - len(kept)), self.cls_id]

    def target_row(self, body: Sequence[int], length: int) -> list[int]:
        """The captioner's row of exactly `length` ids: BOS body EOS PAD .., no CLS.

        A body longer than `length - 2` is cut and the last place is EOS. The captioner's labels are this row shifted
        left by one with PAD appended, and every label other than PAD counts: EOS too, also after a cut, so at most
        `length - 1` labels.

        Raises:
            ConfigError: `length` below 2.
            TypeError: `body` is a text.
        """
        _refuse_text(body)
        if length < 2:
            raise ConfigError(f"target_length: {length} leaves no room for BOS and EOS; use 3 or more")
        kept = list(body[: length - 2])
        return [self.bos_id, *kept, self.eos_id, *[self.pad_id] * (length - 2 - len(kept))]

    def encode(self, text: str, length: int) -> list[int]:
        """`encoder_row` of the text's body: what `encode_text` of a model reads."""
        return self.encoder_row(self.body(text), length)

    def _readable(self, ids: Sequence[int]) -> list[int]:
        """The ids of `ids` that stand for text."""
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
        """Make `folder`, write the file that names the kind, and return the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        ids = {"pad": self.pad_id, "bos": self.bos_id, "eos": self.eos_id, "unk": self.unk_id, "cls": self.cls_id}
        content = {"kind": self.kind, "vocab_size": self.vocab_size, "special_ids": ids}
        (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return folder


class ChunkTokenizer(Tokenizer):
    """A tokenizer that looks at one stretch between blanks at a time, and knows most of them already."""

    def __init__(self) -> None:
        self._cache: dict[str, tuple[int, ...]] = {}

    @abstractmethod
    def split_chunks(self, text: str) -> list[str]:
        """Parts of `text` whose ids do not depend on each other."""

    @abstractmethod
    def encode_chunk(self, chunk: str) -> list[int]:
        """Ids of one of them."""

    def body(self, text: str) -> list[int]:
        """Ids of `text` without specials."""
        cache = self._cache
        ids: list[int] = []
        for chunk in self.split_chunks(text):
            found = cache.get(chunk)
            if found is None:
                found = tuple(self.encode_chunk(chunk))
                if len(cache) >= _CACHE_ENTRIES:
                    cache.clear()
                # A web caption may hold kilobytes without a blank; such stretches never come again.
                if len(chunk) <= _LONGEST_IN_CACHE:
                    cache[chunk] = found
            ids += found
        return ids

    def __getstate__(self) -> dict[str, Any]:
        # Workers that unpickle a tokenizer fill their own cache.
        return {**self.__dict__, "_cache": {}}


def _refuse_text(body: object) -> None:
    if isinstance(body, str):
        raise TypeError(f"a row is made of ids, got the text {body[:40]!r}; give tokenizer.body(text), or use encode")


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Read a tokenizer that `save` wrote, or any folder that holds a WordPiece `vocab.txt`.

    Without a `kind` in the configuration (a folder made by other software), the files decide.

    Raises:
        ConfigError: no such folder, no tokenizer in it, an unknown kind, or a file that cannot be used.
    """
    # Imported here because both modules build on this one.
    from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer
    from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

    folder = Path(folder)
    config_path = folder / CONFIG_FILE
    kind = None
    if config_path.is_file():
        try:
            content = json.loads(config_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{config_path}: not JSON ({error}); save the tokenizer again") from None
        kind = content.get("kind") if isinstance(content, dict) else None
    if kind is None:
        kind = "clip_bpe" if (folder / MERGES_FILE).is_file() else "wordpiece"
    if kind == WordPieceTokenizer.kind:
        return WordPieceTokenizer.from_vocab(folder / VOCABULARY_FILE)
    if kind == ClipBpeTokenizer.kind:
        return ClipBpeTokenizer.from_merges(folder / MERGES_FILE)
    raise ConfigError(f"{config_path}: unknown tokenizer kind {kind!r}; known: wordpiece, clip_bpe")
