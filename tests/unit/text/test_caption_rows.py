"""Rows of one sample: determinism across processes, fallback, and budgets that do not fit."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader, CaptionRows
from clips_pipeline.text.captions import Caption, generator
from clips_pipeline.text.fragments import FragmentConfig, Strategy
from clips_pipeline.text.methods import Method
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

TEXT = "the dog is red. on the grass a dog. the grass is red! a dog on a dog."


def read(
    small: WordPieceTokenizer, fragment: FragmentConfig, *, seed: int = 0, epoch: int = 0, key: str = "a"
) -> CaptionRows:
    reader = CaptionReader(CaptionConfig(16, 12, fragment), small, seed)
    return reader.read(["a red dog"], [Caption(TEXT)], epoch=epoch, key=key)


def test_rows(small: WordPieceTokenizer) -> None:
    rows = read(small, FragmentConfig("truncation", 3))
    assert rows.web == small.encode("a red dog", 16)
    assert rows.fragment == small.encode("the dog is", 16)
    assert rows.target == small.target_row(small.body(TEXT), 12)


@pytest.mark.parametrize("strategy", get_args(Strategy))
@pytest.mark.parametrize("web", ["a red dog", ""])
def test_without_usable_piece_the_web_caption_replaces_fragment_and_target(
    strategy: Strategy, web: str, small: WordPieceTokenizer
) -> None:
    reader = CaptionReader(CaptionConfig(16, 12, FragmentConfig(strategy, 5)), small, seed=0)
    row = small.encode(web, 16)
    target = small.target_row(small.body(web), 12)
    assert reader.read([web], [Caption("")], epoch=0, key="a") == CaptionRows(row, row, target)


@pytest.mark.parametrize("strategy", ["sub_caption", "random_mask", "block_mask"])
def test_another_seed_epoch_or_key_gives_another_fragment(strategy: Strategy, small: WordPieceTokenizer) -> None:
    config = FragmentConfig(strategy, 5)
    assert read(small, config) == read(small, config)
    for name in ("seed", "epoch"):
        assert len({tuple(read(small, config, **{name: value}).fragment) for value in range(30)}) > 3  # type: ignore[arg-type]
    assert len({tuple(read(small, config, key=str(value)).fragment) for value in range(30)}) > 3
    # Web and target rows are not random.
    assert read(small, config, epoch=1)[0::2] == read(small, config, epoch=2)[0::2]


def test_random_strategies_without_budget_fill_the_row_at_random(small: WordPieceTokenizer) -> None:
    for strategy in ("random_mask", "block_mask"):
        rows = [read(small, FragmentConfig(strategy), epoch=epoch).fragment for epoch in range(30)]
        assert len({tuple(row) for row in rows}) > 3
        assert all(row.index(small.eos_id) == 14 for row in rows)


def test_generator_is_the_same_in_every_process() -> None:
    # The number is pinned: a change of the hash would silently change every training.
    assert generator(1, 2, "key").getrandbits(32) == PINNED
    code = "from clips_pipeline.text.captions import generator; print(generator(1, 2, 'key').getrandbits(32))"
    for hash_seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": hash_seed, "PATH": str(Path(sys.executable).parent)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert int(done.stdout) == PINNED


PINNED = 2953787508


def test_keys_are_not_confused() -> None:
    draws = [
        generator(*parts).getrandbits(64) for parts in [(1, 12, "3"), (11, 2, "3"), (1, 1, "2/3"), (1, 12, "\ud800")]
    ]
    assert len(set(draws)) == len(draws)


def test_configuration() -> None:
    config = from_mapping(CaptionConfig, {"context_length": 35, "fragment": {"tokens": 32}}, "captions")
    assert (config.target_length, config.fragment) == (128, FragmentConfig("sub_caption", 32))
    with pytest.raises(ConfigError, match=r"captions\.fragment\.tokens: 32 .*use at most 31, or context_length 35"):
        from_mapping(CaptionConfig, {"context_length": 34, "fragment": {"tokens": 32}}, "captions")
    with pytest.raises(ConfigError, match="context_length: 3"):
        from_mapping(CaptionConfig, {"context_length": 3}, "captions")
    with pytest.raises(ConfigError, match="target_length: 2"):
        from_mapping(CaptionConfig, {"target_length": 2}, "captions")


def test_methods_read_what_their_table_says(small: WordPieceTokenizer) -> None:
    web = "a red dog"
    web_row, long_row = small.encode(web, 16), small.encode(TEXT, 16)
    config = CaptionConfig(16, 12)
    found = {
        method: [
            CaptionReader(config, small, 0, method).read([web], [Caption(TEXT)], epoch=0, key=str(key))
            for key in range(2_000)
        ]
        for method in get_args(Method)
    }
    assert all(rows == CaptionRows(web_row, [], []) for rows in found["clip"])
    long = [rows.web == long_row for rows in found["mixture"]]
    assert all(rows.web in (web_row, long_row) and rows[1:] == ([], [], ()) for rows in found["mixture"])
    # Five standard deviations of a fraction of 0.2 of 2,000 draws.
    assert abs(sum(long) / 2_000 - 0.2) < 0.045
    # The same texts as in mixture, sample by sample, each as its own target.
    assert [rows.web for rows in found["coca"]] == [rows.web for rows in found["mixture"]]
    for rows, is_long in zip(found["coca"], long, strict=True):
        assert rows.target == small.target_row(small.body(TEXT if is_long else web), 12)
    assert all(rows.web == web_row and rows.fragment and rows.target for rows in found["clips"])
    assert all(rows == CaptionRows([], [], found["clips"][0].target) for rows in found["captioning"])


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_several_positives(strategy: Strategy, small: WordPieceTokenizer) -> None:
    """They are a function of (seed, epoch, key), all different where the captions allow it, and of all captions in turn."""
    config = FragmentConfig(strategy, None if strategy == "sub_caption" else 3)
    captions = [Caption(TEXT, "one"), Caption("a red dog. a red grass. on grass.", "two"), Caption(" ", "none")]

    def rows(epoch: int = 0, positives: int = 4) -> CaptionRows:
        reader = CaptionReader(CaptionConfig(16, 12, config, positives=positives), small, 0)
        return reader.read(["a red dog"], captions, epoch=epoch, key="a")

    found = rows()
    assert found == rows()
    assert len({str(rows(epoch)) for epoch in range(20)}) > 3 or strategy == "truncation"
    parts = [found.fragment, *found.more_fragments]
    assert len(parts) == 4
    assert len({tuple(part) for part in parts}) == (2 if strategy == "truncation" else 4)
    assert found.web == rows(positives=1).web
    assert found.target == rows(positives=1).target
    assert rows(positives=1).more_fragments == ()


def test_sentences_are_drawn_without_replacement_and_begin_again(small: WordPieceTokenizer) -> None:
    reader = CaptionReader(CaptionConfig(16, 12, FragmentConfig(blank_pieces="drop"), positives=7), small, 0)
    for key in "abcdef":
        read = reader.read(["a red dog"], [Caption("a dog. the grass. red!")], epoch=0, key=key)
        parts = [read.fragment, *read.more_fragments]
        sentences = {tuple(small.encode(text, 16)) for text in ("a dog", "the grass", "red")}
        assert {tuple(part) for part in parts[:3]} == {tuple(part) for part in parts[3:6]} == sentences


def test_positives_without_usable_piece_are_the_web_caption(small: WordPieceTokenizer) -> None:
    reader = CaptionReader(CaptionConfig(16, 12, positives=3), small, 0)
    read = reader.read(["a red dog"], [Caption("..!")], epoch=0, key="a")
    assert [read.fragment, *read.more_fragments] == [small.encode("a red dog", 16)] * 3


@pytest.mark.parametrize(("share", "reads"), [(0.0, "a red dog"), (1.0, TEXT)])
def test_the_fraction_of_synthetic_captions(share: float, reads: str, small: WordPieceTokenizer) -> None:
    reader = CaptionReader(CaptionConfig(16, 12, synthetic_fraction=share), small, 0, "mixture")
    assert all(
        reader.read(["a red dog"], [Caption(TEXT)], epoch=e, key="a").web == small.encode(reads, 16) for e in range(50)
    )


def test_the_mixture_follows_seed_epoch_and_key_alone(small: WordPieceTokenizer) -> None:
    def drawn(**changes: int) -> list[list[int]]:
        reader = CaptionReader(CaptionConfig(16, 12, synthetic_fraction=0.5), small, changes.get("seed", 0), "mixture")
        return [
            reader.read(["a dog"], [Caption(TEXT)], epoch=changes.get("epoch", 0), key=str(k)).web for k in range(40)
        ]

    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)
    assert drawn() != drawn(epoch=1)


def test_the_mixture_uses_the_web_caption_without_a_synthetic_one(small: WordPieceTokenizer) -> None:
    reader = CaptionReader(CaptionConfig(16, 12, synthetic_fraction=1.0), small, 0, "coca")
    rows = reader.read(["a dog"], [Caption(" ")], epoch=0, key="a")
    assert rows == CaptionRows(small.encode("a dog", 16), [], small.target_row(small.body("a dog"), 12))


def test_a_fraction_above_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"captions\.synthetic_fraction: 1\.5 must be at most 1"):
        from_mapping(CaptionConfig, {"synthetic_fraction": 1.5}, "train.captions")
