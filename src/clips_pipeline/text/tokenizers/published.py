"""The tokenizer of a folder in Hugging Face's or open_clip's form: `vocab.txt`, or `tokenizer.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.io.json_text import parse_json
from clips_pipeline.text.tokenizers.bpe import OFFSET, ClipBpeTokenizer
from clips_pipeline.text.tokenizers.tokenizer import VOCABULARY_FILE, Tokenizer, read_limited
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

FAST_FILE = "tokenizer.json"


def read_tokenizer(folder: Path, vocabulary: Path | None = None) -> Tokenizer:
    """Return the tokenizer of a model in open_clip's form.

    Args:
        folder: folder of the model.
        vocabulary: a `vocab.txt` or `tokenizer.json` to use instead of the folder's own.

    Raises:
        ConfigError: there is none, or it is neither an uncased WordPiece nor CLIP's byte pairs.
    """
    files = [vocabulary] if vocabulary else [folder / VOCABULARY_FILE, folder / FAST_FILE]
    for file in files:
        if file.is_file():
            return _from_json(file) if file.suffix == ".json" else WordPieceTokenizer.from_vocab(file)
    raise ConfigError(
        f"{files[0]}: no such file; copy {VOCABULARY_FILE} or {FAST_FILE} of the model's tokenizer there, or give it with "
        "--vocabulary (published weights have that of bert-base-uncased)"
    )


def _from_json(file: Path) -> Tokenizer:
    try:
        with file.open("rb") as stream:
            content = parse_json(read_limited(stream, file))
        model = content["model"]
        kind, ids = model["type"], model["vocab"]
        if not isinstance(ids, dict):
            raise TypeError("no vocabulary")
    except ConfigError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{file}: is no tokenizer ({error!r}); use the file of a published tokenizer") from None
    if kind == "WordPiece" and not _is_cased(content):
        return WordPieceTokenizer(_pieces(file, ids), where=str(file))
    if kind == "BPE":
        return _byte_pairs(file, ids, model.get("merges"))
    raise ConfigError(
        f"{file}: {str(kind)[:40]!r} is neither an uncased WordPiece nor CLIP's byte pairs, so the model is no CLIPS model"
    )


def _is_cased(content: Mapping[str, Any]) -> bool:
    normalizer = content.get("normalizer")
    return isinstance(normalizer, dict) and normalizer.get("lowercase") is False


def _pieces(file: Path, ids: Mapping[str, Any]) -> list[str]:
    by_id = {index: piece for piece, index in ids.items() if isinstance(index, int)}
    if sorted(by_id) != list(range(len(ids))):
        raise ConfigError(f"{file}: its ids are not 0 to {len(ids) - 1}; use the file of a published tokenizer")
    return [by_id[index] for index in range(len(ids))]


def _byte_pairs(file: Path, ids: Mapping[str, Any], merges: Any) -> Tokenizer:
    if not isinstance(merges, list):
        raise ConfigError(f"{file}: no list of merges; use the file of a published tokenizer")
    # Two spellings: "a b", and ["a", "b"].
    lines = [" ".join(map(str, pair)) if isinstance(pair, list) else str(pair) for pair in merges]
    tokenizer = ClipBpeTokenizer.from_lines(lines, file)
    if tokenizer.pieces() != {piece: index for piece, index in ids.items() if index not in range(OFFSET)}:
        raise ConfigError(
            f"{file}: byte pairs whose ids are not CLIP's and {OFFSET}, as this project has them; use an export of this project"
        )
    return tokenizer
