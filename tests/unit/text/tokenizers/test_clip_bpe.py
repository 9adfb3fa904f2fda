"""Equality of CLIP's byte-pair encoding with open_clip's tokenizer."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from clips_pipeline.config import ConfigError
from clips_pipeline.text.tokenizers.bpe import OFFSET, ClipBpeTokenizer
from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def reference(fixtures_dir: Path) -> SimpleTokenizer:
    return SimpleTokenizer(bpe_path=str(fixtures_dir / "bpe_simple_vocab_16e6.txt.gz"))


def shifted(ids: list[int]) -> list[int]:
    return [index + OFFSET for index in ids]


def test_equal_to_open_clip_on_real_text(
    clip_bpe: ClipBpeTokenizer, reference: SimpleTokenizer, long_texts: list[str], photo_captions: list[str]
) -> None:
    for text in [*long_texts, *photo_captions]:
        assert clip_bpe.body(text) == shifted(reference.encode(text))


@given(text=st.text(max_size=40) | st.text(alphabet="aAbéß&;<>x'ts.!\r\n\t 1中ﬁ“\x1b\x7f amp#39", max_size=30))
@settings(deadline=None, max_examples=300)
def test_equal_to_open_clip_on_any_text(text: str, clip_bpe: ClipBpeTokenizer, reference: SimpleTokenizer) -> None:
    assert clip_bpe.body(text) == shifted(reference.encode(text))


def test_a_long_word_is_equal_to_open_clip_and_takes_linear_time(
    clip_bpe: ClipBpeTokenizer, reference: SimpleTokenizer
) -> None:
    word = "".join(chr(97 + (place * place) % 26) for place in range(1_000))
    assert clip_bpe.body(word) == shifted(reference.encode(word))
    # Pair by pair over the whole word this would take twenty minutes.
    assert len(clip_bpe.body(word * 200)) > 50_000


def test_names_of_specials_are_ordinary_text(clip_bpe: ClipBpeTokenizer, reference: SimpleTokenizer) -> None:
    text = "a <start_of_text> dog <end_of_text>"
    assert set(reference.all_special_ids) <= set(reference.encode(text))
    ids = clip_bpe.body(text)
    assert not set(shifted(reference.all_special_ids)) & set(ids)
    assert min(ids) >= OFFSET
    assert clip_bpe.decode(ids) == "a < start _ of _ text > dog < end _ of _ text >"


def test_ids_are_distinct_and_cover_clips_pieces(clip_bpe: ClipBpeTokenizer, reference: SimpleTokenizer) -> None:
    specials = [clip_bpe.pad_id, clip_bpe.bos_id, clip_bpe.eos_id, clip_bpe.unk_id, clip_bpe.cls_id]
    assert specials == [0, 1, 2, 3, 4]
    # CLIP's two specials are not pieces here.
    assert clip_bpe.vocab_size == reference.vocab_size - 2 + OFFSET


@given(text=st.text(alphabet="abc é中😀!?.'12", max_size=20))
@settings(deadline=None)
def test_decode_inverts_encoding(text: str, clip_bpe: ClipBpeTokenizer) -> None:
    row = clip_bpe.encode(text, 200)
    assert "".join(clip_bpe.decode(row).split()) == "".join(text.split())


def test_decode_of_invalid_ids(clip_bpe: ClipBpeTokenizer) -> None:
    dog = clip_bpe.body("dog")
    assert clip_bpe.decode([3, *dog, 3, 3, *dog]) == "[UNK] dog [UNK] [UNK] dog"
    assert clip_bpe.decode([3]) == "[UNK]"
    assert clip_bpe.decode(clip_bpe.body("é")[:1]) in ("é", "\ufffd")
    with pytest.raises(ValueError, match="outside"):
        clip_bpe.decode([clip_bpe.vocab_size])


def test_lone_surrogates_are_accepted(clip_bpe: ClipBpeTokenizer) -> None:
    assert clip_bpe.decode(clip_bpe.body("dog \ud800 cat")) == "dog \ufffd cat"


def test_saved_and_loaded_is_the_same(clip_bpe: ClipBpeTokenizer, tmp_path: Path, photo_captions: list[str]) -> None:
    clip_bpe.save(tmp_path / "one")
    again = load_tokenizer(tmp_path / "one")
    assert isinstance(again, ClipBpeTokenizer)
    again.save(tmp_path / "two")
    first, second = ((tmp_path / name / "merges.txt.gz").read_bytes() for name in ("one", "two"))
    assert first == second
    assert [again.body(text) for text in photo_captions] == [clip_bpe.body(text) for text in photo_captions]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain text", "cannot be read"),
        (gzip.compress(b"#version\ni n\nt h\n", mtime=0)[:-9], "cannot be read"),
        (gzip.compress(b"#version\n", mtime=0), "contains no merges"),
        (gzip.compress(b"#version\ni n\nth e\n", mtime=0), "line 3"),
        (gzip.compress(b"#version\ni n t\n", mtime=0), "line 2"),
    ],
)
def test_unusable_merges_say_what_to_do(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "merges.txt.gz").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(tmp_path)
