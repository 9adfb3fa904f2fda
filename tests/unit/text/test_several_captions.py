"""Which of several captions a sample uses: against a naive twin, in its frequencies, and with one caption as before."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from clips_pipeline.config import ConfigError, digest_mapping, from_mapping
from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader, CaptionRows
from clips_pipeline.text.captions import Caption, draw
from clips_pipeline.text.fragments import FragmentConfig
from clips_pipeline.text.methods import Method
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

WEB = ["a dog", "a red dog", "the grass"]
SYNTHETIC = [
    Caption("the dog is red. on the grass a dog.", "llava"),
    Caption("a dog.", "blip"),
    Caption("the grass is red! a dog on a dog.", "llava"),
]


def naive(
    small: WordPieceTokenizer, config: CaptionConfig, method: Method, seed: int, epoch: int, key: str
) -> CaptionRows:
    """Make the rows by the words of docs/reference/fragments.md, with nothing of the package but the tokenizer."""

    def stream(purpose: bytes) -> random.Random:
        digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=8, person=purpose).digest()
        return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - not used for cryptography

    def pick(texts: Sequence[str], purpose: bytes) -> str:
        return texts[0] if len(texts) == 1 else texts[stream(purpose).randrange(len(texts))]

    used = [c for c in SYNTHETIC if config.captioners is None or c.captioner in config.captioners]
    web, synthetic = pick(WEB, b"web"), pick([c.text for c in used], b"synthetic") if used else ""
    if method != "clips":
        long = method != "clip" and synthetic and stream(b"mixture").random() < config.synthetic_fraction
        body = small.body(synthetic if long else web)
        target = small.target_row(body, config.target_length) if method == "coca" else []
        return CaptionRows(small.encoder_row(body, config.context_length), [], target)
    row = small.encoder_row(small.body(web), config.context_length)
    if not synthetic:
        return CaptionRows(row, row, small.target_row(small.body(web), config.target_length))
    pieces = [piece for piece in synthetic.replace("!", ".").split(".") if piece]
    part = stream(b"").choice(pieces)
    of_target = [c.text for c in used if c.captioner == config.target_captioner] or [c.text for c in used]
    target = small.target_row(small.body(pick(of_target, b"target")), config.target_length)
    return CaptionRows(row, small.encode(part, config.context_length), target)


@pytest.mark.parametrize("method", ["clip", "mixture", "coca", "clips"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"captioners": ("llava",)},
        {"captioners": ("blip", "llava"), "target_captioner": "blip"},
        {"target_captioner": "llava"},
        {"target_captioner": "of other samples"},
        {"captioners": ("of other samples",)},
    ],
)
def test_the_draws_are_those_of_the_naive_twin(
    method: Method, changes: dict[str, Any], small: WordPieceTokenizer
) -> None:
    config = CaptionConfig(16, 12, synthetic_fraction=0.5, **changes)
    for seed, epoch, key in ((s, e, str(k)) for s in (0, 7) for e in range(3) for k in range(20)):
        found = CaptionReader(config, small, seed, method).read(WEB, SYNTHETIC, epoch=epoch, key=key)
        assert found == naive(small, config, method, seed, epoch, key)


def test_one_caption_of_each_kind_takes_no_draw(small: WordPieceTokenizer) -> None:
    """So a sample with one caption is read as it was before there could be several, whatever the others have."""
    reader = CaptionReader(CaptionConfig(16, 12), small, seed=0)
    alone = CaptionReader(CaptionConfig(16, 12, captioners=("llava",), target_captioner="llava"), small, seed=0)
    for key in map(str, range(20)):
        wanted = reader.read(WEB[:1], [Caption(SYNTHETIC[0].text)], epoch=0, key=key)
        assert alone.read(WEB[:1], SYNTHETIC[:2], epoch=0, key=key) == wanted


def test_captions_are_drawn_uniformly_and_independently(small: WordPieceTokenizer) -> None:
    reader = CaptionReader(CaptionConfig(16, 20, FragmentConfig("truncation", 2)), small, seed=0)
    rows = [reader.read(WEB, SYNTHETIC, epoch=epoch, key="a") for epoch in range(3_600)]
    seen = Counter((tuple(row.web), tuple(row.fragment), tuple(row.target)) for row in rows)
    assert len(seen) == 27
    # Five standard deviations of a count of 3,600 draws with a probability of 1/27.
    assert all(abs(count - 3_600 / 27) < 57 for count in seen.values())


def test_a_drawn_caption_does_not_depend_on_other_draws() -> None:
    names = [draw("abcd", 3, 1, "key", purpose) for purpose in ("web", "synthetic", "target")]
    assert names == ["abcd"[number] for number in PINNED]  # a change would silently change every training


PINNED = (3, 3, 0)


def test_without_a_usable_caption_the_web_caption_replaces_it(small: WordPieceTokenizer) -> None:
    reader = CaptionReader(CaptionConfig(16, 12, captioners=("none",)), small, seed=0)
    row = small.encode("a dog", 16)
    expected = CaptionRows(row, row, small.target_row(small.body("a dog"), 12))
    assert reader.read(WEB[:1], SYNTHETIC, epoch=0, key="a") == expected
    assert CaptionReader(CaptionConfig(16, 12), small, seed=0).read([], [], epoch=0, key="a").web == small.encode(
        "", 16
    )


def test_a_target_without_ids_is_replaced_by_the_caption_of_the_fragment(small: WordPieceTokenizer) -> None:
    reader = CaptionReader(
        CaptionConfig(16, 12, FragmentConfig("truncation", 5), target_captioner="odd"), small, seed=0
    )
    captions = [Caption("a dog", "good"), Caption("\u200b", "odd")]
    targets = {tuple(reader.read(["a"], captions, epoch=epoch, key="a").target) for epoch in range(20)}
    assert targets == {tuple(small.target_row(small.body("a dog"), 12)), tuple(small.target_row(small.body("a"), 12))}


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ({"captioners": []}, "must name at least one"),
        ({"captioners": ["a", "a"]}, "none of them twice"),
        (
            {"captioners": ["a"], "target_captioner": "b"},
            r"target_captioner: 'b' is not among captioners \['a'\]; add it",
        ),
    ],
)
def test_impossible_captioners_are_refused(captions: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(CaptionConfig, captions, "train.captions")


def test_digests_of_earlier_configurations_do_not_change() -> None:
    assert "captioners" not in digest_mapping(CaptionConfig())
    assert digest_mapping(CaptionConfig(captioners=("a",)))["captioners"] == ["a"]
