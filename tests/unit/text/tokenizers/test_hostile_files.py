"""Damaged, huge and hostile tokenizer files are one error, or a tokenizer whose ids are in range."""

import gzip
import random
from contextlib import suppress
from pathlib import Path

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.text.tokenizers.tokenizer import MAX_FILE_BYTES, load_tokenizer

VOCABULARY = "\n".join(["[PAD]", "[BOS]", "[EOS]", "[UNK]", "[CLS]", *"abcdefgh", "##a", "##b", "the", "caf\u00e9", ""])
MERGES = "#version: 0.2\ni n\nt h\na n\nr e\na r\ne r\nth e</w>\nin g</w>\n"
SETTINGS = '{"kind": "%s", "vocab_size": 18, "special_ids": {"pad": 0}}'
TEXT = "the caf\u00e9 \U0001f600 abc, a thing \ud800 \x00 [CLS] \u202e" + "in" * 200


def _write(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)


def _mutated(content: bytes, draws: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draws.choice([1, 2, 10, 50])):
        at = draws.randrange(len(changed))
        match draws.randrange(4):
            case 0:
                changed[at] = draws.randrange(256)
            case 1:
                changed[at:at] = draws.choice(
                    [b"\n", b"\n\n", b" ", b"\xff", b"[", b'"', b"9" * 500, b"\xf0\x9f\x98\x80"]
                )
            case 2:
                del changed[at : at + draws.choice([1, 1, 5])]
            case 3:
                part = changed[at : at + 20]
                changed[at:at] = part
        if not changed:
            break
    return bytes(changed)


@pytest.mark.parametrize("kind", ["wordpiece", "clip_bpe"])
@pytest.mark.parametrize("damaged", ["settings", "table"])
def test_mutated_files_are_one_error_or_a_tokenizer_in_range(tmp_path: Path, kind: str, damaged: str) -> None:
    name, table = ("vocab.txt", VOCABULARY) if kind == "wordpiece" else ("merges.txt.gz", MERGES)
    draws = random.Random(f"{kind} {damaged}")  # noqa: S311 - no secret depends on it
    loaded = 0
    for _ in range(300):
        settings, content = (SETTINGS % kind).encode(), table.encode()
        if damaged == "settings":
            settings = _mutated(settings, draws)
        else:
            content = _mutated(content, draws)
        if name.endswith(".gz"):
            content = gzip.compress(content, mtime=0)
            content = _mutated(content, draws) if damaged == "table" and draws.random() < 0.3 else content
        _write(tmp_path / "t", "tokenizer_config.json", settings)
        _write(tmp_path / "t", name, content)
        with suppress(ConfigError):  # anything else fails the test
            tokenizer = load_tokenizer(tmp_path / "t")
            row = tokenizer.encode(TEXT, 64)
            assert 0 <= min(row) <= max(row) < tokenizer.vocab_size
            tokenizer.decode(row)
            loaded += 1
    assert 5 < loaded < 300


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", b"a\n" * (MAX_FILE_BYTES // 2) + b"a"),
        ("merges.txt.gz", gzip.compress(bytes(4 * MAX_FILE_BYTES), mtime=0)),
        ("tokenizer_config.json", b" " * (MAX_FILE_BYTES + 1)),
    ],
)
def test_huge_files_are_refused_by_their_size(tmp_path: Path, name: str, content: bytes) -> None:
    assert len(content) < 2 * MAX_FILE_BYTES
    _write(tmp_path, name, content)
    with pytest.raises(ConfigError, match=rf"{name}: has more than {MAX_FILE_BYTES} bytes"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"kind": ' + b"[" * 100_000, b'{"kind": "' + b"x" * 100_000 + b'"}']
)
def test_hostile_settings_are_one_short_error(tmp_path: Path, content: bytes) -> None:
    _write(tmp_path, "tokenizer_config.json", content)
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: (not JSON|unknown tokenizer kind)") as error:
        load_tokenizer(tmp_path)
    assert len(str(error.value)) < 500


def test_a_line_of_a_million_letters_is_not_shown(tmp_path: Path) -> None:
    for name, content in (
        ("vocab.txt", b"x" * 10**6 + b"\n[BOS]\n[EOS]\n"),
        ("merges.txt.gz", gzip.compress(b"#\n" + b"x" * 10**6 + b"\n", mtime=0)),
    ):
        folder = tmp_path / name
        _write(folder, name, content)
        with pytest.raises(ConfigError) as error:
            load_tokenizer(folder)
        assert len(str(error.value)) < 500
