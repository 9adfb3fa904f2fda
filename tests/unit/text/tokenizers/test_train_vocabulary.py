"""Training of a vocabulary: reproducible bytes, and pieces that fit the captions."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer
from clips_pipeline.text.tokenizers.train_vocabulary import SPECIALS, train_wordpiece

CAPTIONS = [
    f'A {size} {color} {kind} stands near a {other}. The {other} is {color}, and it\'s "old"!'
    for size in ("small", "large", "tiny")
    for color in ("red", "blue", "green", "yellow")
    for kind, other in (("lamp", "table"), ("chair", "lamp"), ("bottle", "window"), ("vase", "carpet"))
]

TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from test_train_vocabulary import CAPTIONS
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece
train_wordpiece(CAPTIONS if sys.argv[3] == "forward" else reversed(CAPTIONS), 120, sys.argv[2])
"""


def test_same_bytes_in_every_process_and_order_of_captions(tmp_path: Path) -> None:
    digests = set()
    for run, order in enumerate(("forward", "forward", "backward")):
        folder = tmp_path / str(run)
        subprocess.run([sys.executable, "-c", TRAIN, str(Path(__file__).parent), str(folder), order], check=True)
        digests.add(hashlib.sha256((folder / "vocab.txt").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_every_caption_is_encoded_without_unk(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(iter(CAPTIONS), 100, tmp_path)
    assert tokenizer.pieces[:5] == list(SPECIALS)
    assert (tokenizer.unk_id, tokenizer.cls_id) == (3, 4)
    assert tokenizer.vocab_size == 100
    assert "lamp" in tokenizer.pieces
    assert any(piece.startswith("##") and len(piece) > 3 for piece in tokenizer.pieces)
    loaded = load_tokenizer(tmp_path)
    for caption in CAPTIONS:
        ids = loaded.body(caption)
        assert tokenizer.unk_id not in ids
        assert len(ids) < len(caption) / 2
        assert "".join(loaded.decode(ids).split()) == "".join(caption.lower().split())


def test_every_piece_can_be_used(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(CAPTIONS, 100, tmp_path)
    for place, piece in enumerate(tokenizer.pieces[5:], start=5):
        if not piece.startswith("##"):
            assert tokenizer.body(piece) == [place]


def test_few_captions_give_fewer_pieces(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(["a dog", "a dog"], 1000, tmp_path)
    assert sorted(tokenizer.pieces[5:]) == ["##g", "##o", "a", "d", "do", "dog"]


def test_rare_letters_do_not_crowd_out_pieces(tmp_path: Path) -> None:
    rare = "".join(chr(0x4E00 + place) for place in range(2000))
    tokenizer = train_wordpiece([*CAPTIONS, rare], 120, tmp_path)
    assert "lamp" in tokenizer.pieces
    assert tokenizer.body(rare)[-1] == tokenizer.unk_id


def test_unusual_captions(tmp_path: Path) -> None:
    def odd() -> Iterator[str]:
        yield from CAPTIONS
        yield from ["", "  ", "[PAD] [CLS]", "\U000f0001\U000f0002", "\ud800x", "y" * 500, "a\u2028b"]

    tokenizer = train_wordpiece(odd(), 150, tmp_path)
    assert not {"\U000f0001", "\ud800"} & set("".join(tokenizer.pieces))
    assert len(set(tokenizer.pieces)) == tokenizer.vocab_size
    assert not {0, 1, 2, 4} & set(tokenizer.body("[PAD] [BOS] [EOS] [CLS]"))


def test_unusable_input_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use 64 or more"):
        train_wordpiece(CAPTIONS, 63, tmp_path)
    with pytest.raises(ConfigError, match="contain no words"):
        train_wordpiece(["", " "], 100, tmp_path)
