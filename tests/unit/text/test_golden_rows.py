"""Equality with rows of the authors' code: tokenizer, sub-captions, truncation, fallback, labels and mask."""

import json
from pathlib import Path
from typing import Any

import pytest

from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader
from clips_pipeline.text.captions import Caption
from clips_pipeline.text.sentences import split_sub_captions
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

LENGTHS = {"len_80_128": (80, 128), "len_12_9": (12, 9)}


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((golden_dir / "tokens.json").read_text(encoding="utf-8"))
    return content


def test_special_ids(bert: WordPieceTokenizer, golden: dict[str, Any]) -> None:
    ids = {"pad": bert.pad_id, "bos": bert.bos_id, "eos": bert.eos_id, "unk": bert.unk_id, "cls": bert.cls_id}
    assert ids == golden["special_ids"]


@pytest.mark.parametrize("name", LENGTHS)
def test_every_case(name: str, bert: WordPieceTokenizer, golden: dict[str, Any]) -> None:
    context_length, target_length = LENGTHS[name]
    reader = CaptionReader(CaptionConfig(context_length, target_length), bert, seed=0)
    cases = golden[name]
    assert len(cases) == {"len_80_128": 76, "len_12_9": 10}[name]
    for case in cases:
        rows = reader.read([case["web"]], [Caption(case["synthetic"])], epoch=0, key="k")
        assert rows.web == case["t1"], case["web"]
        assert rows.target == case["y"], case["synthetic"]
        assert split_sub_captions(case["synthetic"]) == case["pieces"]
        candidates = [bert.encode(piece, context_length) for piece in case["pieces"]]
        assert (candidates or [bert.encode(case["web"], context_length)]) == case["t2"]


@pytest.mark.parametrize("name", LENGTHS)
def test_every_published_fragment_is_drawn_and_no_other(
    name: str, bert: WordPieceTokenizer, golden: dict[str, Any]
) -> None:
    context_length, target_length = LENGTHS[name]
    reader = CaptionReader(CaptionConfig(context_length, target_length), bert, seed=0)
    for case in golden[name]:
        published = {tuple(row) for row in case["t2"]}
        drawn = set()
        for epoch in range(40 * len(case["t2"])):
            drawn.add(tuple(reader.read([case["web"]], [Caption(case["synthetic"])], epoch=epoch, key="k").fragment))
        assert drawn == published


@pytest.mark.parametrize("name", LENGTHS)
def test_labels_and_mask_follow_from_the_target_row(
    name: str, bert: WordPieceTokenizer, golden: dict[str, Any]
) -> None:
    for case in golden[name]:
        text = case["synthetic"] if case["pieces"] else case["web"]
        row = bert.target_row(bert.body(text), LENGTHS[name][1])
        labels = [*row[1:], bert.pad_id]
        assert labels == case["y_labels"]
        assert [int(label != bert.pad_id) for label in labels] == case["y_mask"]
