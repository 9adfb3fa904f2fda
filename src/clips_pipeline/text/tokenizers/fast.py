"""A tokenizer of this project as a `tokenizers.Tokenizer`: what Hugging Face's libraries and open_clip read as `tokenizer.json`.

Ids are equal with two exceptions, which `tests/unit/text/tokenizers/test_fast.py` counts:

- WordPiece: code points that are newer than the Unicode tables of `tokenizers`, and Cyrillic letters of medieval books (32 of
  144,762); words of more than 100 bytes but at most 100 characters, which are one UNK in the published tokenizer.
- CLIP's byte pairs: `tokenizers` cannot repair mojibake and HTML entities as CLIP's cleaning does, so text has to be cleaned
  before (open_clip does, with `clean: lower`).
"""

import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from clips_pipeline.text.tokenizers import tokenizer as own
from clips_pipeline.text.tokenizers.bpe import WORDS, ClipBpeTokenizer
from clips_pipeline.text.tokenizers.wordpiece import (
    CONTROL,
    IGNORABLE,
    MARKS,
    MAX_WORD_BYTES,
    SINGLE,
    SUFFIX,
    WordPieceTokenizer,
)

SPECIAL_NAMES = {
    "pad_token": "[PAD]",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
}
"""Names of the special ids under the keys of `tokenizer_config.json`, unless the vocabulary has other names."""

_COMBINING_IOTA = "\u0345"
# `tokenizers` writes code points as \x{…}.
_SINGLE = re.sub(r"\\(?:u([0-9A-F]{4})|U([0-9A-F]{8}))", lambda found: rf"\x{{{found[1] or found[2]}}}", SINGLE)


def special_names(tokenizer: own.Tokenizer) -> dict[str, str]:
    """Return the names of the special ids under the keys of `tokenizer_config.json`."""
    ids = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.cls_id)
    if isinstance(tokenizer, WordPieceTokenizer):
        return {key: tokenizer.pieces[index] for key, index in zip(SPECIAL_NAMES, ids, strict=True)}
    return dict(SPECIAL_NAMES)


def fast_tokenizer(tokenizer: own.Tokenizer) -> Tokenizer:
    """Return the tokenizer without post-processing: its ids are those of `Tokenizer.body`.

    Raises:
        TypeError: a tokenizer of another kind.
    """
    names = special_names(tokenizer)
    if isinstance(tokenizer, WordPieceTokenizer):
        fast = _wordpiece(tokenizer, names["unk_token"])
    elif isinstance(tokenizer, ClipBpeTokenizer):
        fast = _clip_bpe(tokenizer, names)
    else:
        raise TypeError(f"no fast tokenizer for {type(tokenizer).__name__}")
    # Names of special ids in a text are ordinary text; `split_special_tokens` says the same in `tokenizer_config.json`.
    fast.encode_special_tokens = True
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names.values()])
    return fast


def _wordpiece(tokenizer: WordPieceTokenizer, unknown: str) -> Tokenizer:
    ids = {piece: index for index, piece in enumerate(tokenizer.pieces)}
    fast = Tokenizer(models.WordPiece(ids, unk_token=unknown, max_input_chars_per_word=MAX_WORD_BYTES))
    case_folding = [
        normalizers.Lowercase(),
        normalizers.Replace("ß", "ss"),
        normalizers.Replace("ς", "σ"),
    ]
    fast.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(IGNORABLE.pattern), ""),
            normalizers.NFD(),
            normalizers.Replace(_COMBINING_IOTA, "ι"),  # case folding makes it a letter; otherwise it would be a mark
            normalizers.NFKC(),
            *case_folding,
            # Compatibility forms may expand to capitals.
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(IGNORABLE.pattern), ""),
            normalizers.NFD(),
            normalizers.Replace(Regex(MARKS.pattern), ""),
            normalizers.Replace(Regex(CONTROL.pattern), " "),
        ]
    )
    whitespace = pre_tokenizers.Split(Regex(r"[ \t\n\r\f]+"), "removed")
    fast.pre_tokenizer = pre_tokenizers.Sequence([whitespace, pre_tokenizers.Split(Regex(f"[{_SINGLE}]"), "isolated")])
    fast.decoder = decoders.WordPiece(prefix=SUFFIX, cleanup=False)
    return fast


def _clip_bpe(tokenizer: ClipBpeTokenizer, names: dict[str, str]) -> Tokenizer:
    fast = Tokenizer(tokenizer.byte_pairs(special=list(names.values())))
    fast.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS.pattern), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    return fast
