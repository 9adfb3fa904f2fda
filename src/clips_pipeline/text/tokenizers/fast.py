"""A tokenizer of this project as a `tokenizers.Tokenizer`: what Hugging Face's libraries and open_clip read as `tokenizer.json`.

Ids are equal with two exceptions, which `tests/unit/text/tokenizers/test_fast.py` counts:

- WordPiece: code points that are newer than the Unicode tables of `tokenizers`, and Cyrillic letters of medieval books (32 of
  144,762); words of more than 100 bytes but at most 100 characters, which are one UNK in the published tokenizer.
- CLIP's byte pairs: `tokenizers` cannot repair mojibake and HTML entities as CLIP's cleaning does, so text has to be cleaned
  before (open_clip does, with `clean: lower`).
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from clips_pipeline.text.tokenizers import tokenizer as own
from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer
from clips_pipeline.text.tokenizers.wordpiece import MAX_WORD_BYTES, SUFFIX, WordPieceTokenizer

SPECIAL_NAMES = {
    "pad_token": "[PAD]",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
}
"""Names of the special ids under the keys of `tokenizer_config.json`, unless the vocabulary has other names."""

_IGNORABLE = Regex(r"\p{Default_Ignorable_Code_Point}+")
_COMBINING_IOTA = "\u0345"
# `wordpiece._SINGLE`, in the syntax of the regular expressions of `tokenizers`.
_SINGLE = Regex(
    r"[!-/:-@\[-`{-~\p{P}"
    r"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}"
    r"\x{2B820}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]"
)
_CLIP_WORDS = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


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
            normalizers.Replace(_IGNORABLE, ""),
            normalizers.NFD(),
            normalizers.Replace(_COMBINING_IOTA, "ι"),  # case folding makes it a letter; otherwise it would be a mark
            normalizers.NFKC(),
            *case_folding,
            # Compatibility forms may expand to capitals.
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(_IGNORABLE, ""),
            normalizers.NFD(),
            normalizers.Replace(Regex(r"\p{Mn}+"), ""),
            normalizers.Replace(Regex(r"[\p{Cc}\p{Cf}]"), " "),
        ]
    )
    whitespace = pre_tokenizers.Split(Regex(r"[ \t\n\r\f]+"), "removed")
    fast.pre_tokenizer = pre_tokenizers.Sequence([whitespace, pre_tokenizers.Split(_SINGLE, "isolated")])
    fast.decoder = decoders.WordPiece(prefix=SUFFIX, cleanup=False)
    return fast


def _clip_bpe(tokenizer: ClipBpeTokenizer, names: dict[str, str]) -> Tokenizer:
    fast = Tokenizer(tokenizer.byte_pairs(special=list(names.values())))
    fast.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_CLIP_WORDS, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    return fast
