"""WordPiece against an independent implementation, and on unusual text."""

import pickle
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from clips_pipeline.config import ConfigError
from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer, fold, split_words

SPECIAL_NAMES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture(scope="module")
def reference(fixtures_dir: Path) -> BertTokenizer:
    return BertTokenizer(vocab=str(fixtures_dir / "bert_base_uncased_vocab.txt"))


def reasons_to_differ(text: str) -> set[str]:
    """The documented differences between the published tokenizer and Hugging Face's that apply to `text`."""
    reasons = set()
    if any(name in text for name in SPECIAL_NAMES):
        reasons.add("name of a special")
    lowered = unicodedata.normalize("NFD", text.lower())
    if "".join(sign for sign in lowered if unicodedata.category(sign) != "Mn").split() != fold(text).split():
        reasons.add("NFKC case folding")
    if any(len(word) <= 100 < len(word.encode()) for word in split_words(text)):
        reasons.add("limit in bytes")
    return reasons


def reference_rows(reference: BertTokenizer, text: str) -> tuple[list[int], list[int]]:
    """Rows as the published PyTorch code lays them out, from the reference's ids."""
    body = reference.encode(text, add_special_tokens=False, truncation=False, verbose=False)
    encoder = [1, *body[:77], 2]
    target = [1, *body[:126], 2]
    return [*encoder, *[0] * (79 - len(encoder)), 101], [*target, *[0] * (128 - len(target))]


def test_equal_to_transformers_on_long_texts_and_captions(
    bert: WordPieceTokenizer, reference: BertTokenizer, long_texts: list[str], photo_captions: list[str]
) -> None:
    assert len(long_texts) == 600
    compared = 0
    for text in [*long_texts, *photo_captions]:
        if reasons_to_differ(text):
            continue
        compared += 1
        body = bert.body(text)
        assert (bert.encoder_row(body, 80), bert.target_row(body, 128)) == reference_rows(reference, text)
        assert body == reference.encode(text, add_special_tokens=False, verbose=False)
    # Only a few texts may be excepted, or the comparison says nothing.
    assert compared >= 0.97 * (len(long_texts) + len(photo_captions))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a [CLS] here", "name of a special"), ("Straße ½ ™", "NFKC case folding"), ("ж" * 60, "limit in bytes")],
)
def test_each_reason_is_real(text: str, reason: str, bert: WordPieceTokenizer, reference: BertTokenizer) -> None:
    assert reasons_to_differ(text) == {reason}
    assert bert.body(text) != reference.encode(text, add_special_tokens=False)


@given(text=st.text(alphabet=st.characters(codec="ascii"), max_size=120))
@settings(deadline=None, max_examples=300)
def test_equal_to_transformers_on_printable_ascii(
    text: str, bert: WordPieceTokenizer, reference: BertTokenizer
) -> None:
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    if not any(name in text for name in SPECIAL_NAMES):
        assert bert.body(text) == reference.encode(text, add_special_tokens=False, verbose=False)


@given(text=st.text(max_size=60))
@settings(deadline=None, max_examples=300)
def test_any_text_is_accepted_and_specials_cannot_be_forged(text: str, bert: WordPieceTokenizer) -> None:
    ids = bert.body(text)
    forbidden = {bert.pad_id, bert.bos_id, bert.eos_id, bert.cls_id}
    assert not forbidden & set(ids)
    assert all(0 <= index < bert.vocab_size for index in ids)
    # The cache must not change an answer, nor the place of a word in its text.
    fresh = pickle.loads(pickle.dumps(bert))  # noqa: S301
    assert not fresh._cache
    assert fresh.body(text) == ids
    assert fresh.body(f"{text} dog {text}") == [*ids, 3899, *ids]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("[CLS] [bos]", "[ cl ##s ] [ bo ##s ]"),
        ("x" * 101, "[UNK]"),
        ("Straße ½ ™", "st ##ras ##se 1 ##⁄ ##2 t ##m"),
        ("\ud800 dog", "[UNK] dog"),
        ("zero\u200bwidth", "zero ##wi ##dt ##h"),
        ("a\x07b\u0600c", "a b c"),
        ("a\u2028b", "[UNK]"),
        ("中文dog", "中 文 dog"),
        (" \n\t ", ""),
    ],
)
def test_unusual_text(text: str, pieces: str, bert: WordPieceTokenizer) -> None:
    assert " ".join(bert.pieces[index] for index in bert.body(text)) == pieces


def test_decode_stops_at_eos_and_skips_specials(bert: WordPieceTokenizer) -> None:
    body = bert.body("Pizzas on a table, marionette!")
    text = "pizzas on a table , marionette !"
    assert bert.decode(body) == text
    assert bert.decode(bert.encoder_row(body, 20)) == text
    assert bert.decode([*bert.target_row(body, 20), *body]) == text
    assert bert.decode(bert.body("##")) == "# #"
    assert bert.decode([]) == ""
    for outside in (-1, bert.vocab_size):
        with pytest.raises(ValueError, match="outside"):
            bert.decode([outside])


def test_saved_and_loaded_is_the_same(bert: WordPieceTokenizer, tmp_path: Path, photo_captions: list[str]) -> None:
    bert.save(tmp_path / "deep" / "tokenizer")
    again = load_tokenizer(tmp_path / "deep" / "tokenizer")
    assert isinstance(again, WordPieceTokenizer)
    assert (again.pieces, again.cls_id, again.vocab_size) == (bert.pieces, 101, 30522)
    assert [again.body(text) for text in photo_captions] == [bert.body(text) for text in photo_captions]


def test_folder_of_other_software_is_read(small: WordPieceTokenizer, tmp_path: Path) -> None:
    lines = "\r\n".join(small.pieces)
    (tmp_path / "vocab.txt").write_bytes(lines.encode())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    loaded = load_tokenizer(tmp_path)
    assert loaded.body("a dog is red") == small.body("a dog is red")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[PAD]", "[BOS]"], "lines 0, 1, 2"),
        (["dog", "[BOS]", "[EOS]", "[UNK]", "[CLS]"], "lines 0, 1, 2"),
        (["[PAD]", "bos", "[EOS]", "[UNK]", "[CLS]"], "lines 0, 1, 2"),
        (["[PAD]", "[BOS]", "[EOS]", "[CLS]"], r"no line \[UNK\]"),
        (["[PAD]", "[BOS]", "[EOS]", "[UNK]"], r"no line \[CLS\]"),
        (["[PAD]", "[BOS]", "[EOS]", "[UNK]", "[CLS]", "dog", "dog"], "'dog' is on two lines"),
    ],
)
def test_unusable_vocabulary_says_what_to_do(lines: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(tmp_path)


def test_unusable_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer_config.json").write_text('{"kind": "sentencepiece"}')
    with pytest.raises(ConfigError, match="unknown tokenizer kind 'sentencepiece'"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        WordPieceTokenizer.from_vocab(tmp_path / "vocab.txt")


@given(body=st.lists(st.integers(5, 20), max_size=30), length=st.integers(3, 20))
def test_rows_have_their_length_and_specials(small: WordPieceTokenizer, body: list[int], length: int) -> None:
    row = small.encoder_row(body, length)
    assert len(row) == length
    assert (row[0], row[-1], row.count(2)) == (1, small.cls_id, 1)
    assert row[1 : row.index(2)] == body[: length - 3]
    assert set(row[row.index(2) + 1 : -1]) <= {0}
    target = small.target_row(body, length)
    assert len(target) == length
    assert target[1 : target.index(2)] == body[: length - 2]
    assert set(target[target.index(2) + 1 :]) <= {0}


def test_rows_too_short_for_their_specials(small: WordPieceTokenizer) -> None:
    with pytest.raises(ConfigError, match="context_length"):
        small.encoder_row([], 2)
    with pytest.raises(ConfigError, match="target_length"):
        small.target_row([], 1)
