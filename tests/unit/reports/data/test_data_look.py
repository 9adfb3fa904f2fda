"""A look at samples: what the model reads of them, the page, and the terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from tests.unit.data.samples import image_bytes, record
from tests.unit.reports.data.hostile_texts import TEXTS, Words

from clips_pipeline.data.limits import DEFAULT_LIMITS
from clips_pipeline.data.look.samples import SeenSample
from clips_pipeline.data.shards.records import Caption
from clips_pipeline.reports.data.data_look import Card, Look, find_problems, look_html, make_card
from clips_pipeline.reports.data.look_terminal import half_blocks, show_look
from clips_pipeline.reports.data.readings import SampleReadings
from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader
from clips_pipeline.text.methods import Method
from clips_pipeline.text.tokenizers.train_vocabulary import SPECIALS
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

PIECES = ["red", "bird", "blue", "box", "s", "##s", ".", "a"]
TOKENIZER = WordPieceTokenizer([*SPECIALS, *PIECES])


def readings(method: Method = "clips", **config: object) -> SampleReadings:
    return SampleReadings(CaptionReader(CaptionConfig(**config), TOKENIZER, 0, method))  # type: ignore[arg-type]


def two_captions(**changes: object) -> SeenSample:
    captions = (Caption("Red bird. Blue box. A bird.", "llava"), Caption("Birds in box.", "other"))
    made = record(1, web_caption="red birds zebra", **changes)
    return SeenSample("k1", replace(made, synthetic_captions=captions, captions=("a person's",)), width=24, height=20)


def look(*cards: Card) -> Look:
    return Look([("source", "folder, /data")], cards, find_problems(cards), "sub_caption")


def test_rows_are_those_of_the_training():
    seen, reader = two_captions(), CaptionReader(CaptionConfig(), TOKENIZER, 0)
    read = SampleReadings(reader, epochs=8)
    for reading in read.epochs(seen.record):
        rows = reader.read(seen.record.web_captions, seen.record.synthetic_captions, epoch=reading.epoch, key="k0001")
        for row, shown in zip(rows[:3], (reading.web, *reading.fragments, reading.target), strict=True):
            assert [token.index for token in shown.tokens] == [index for index in row if index != TOKENIZER.pad_id]
            assert len(shown.tokens) + shown.padding == len(row)
            assert shown.text == TOKENIZER.decode(row)
    assert len({reading.fragments[0].text for reading in read.epochs(seen.record)}) > 1


def test_pieces_unknown_ids_and_captioners_are_named():
    seen = two_captions()
    captions = readings().captions(seen.record)
    assert [(one.kind, one.captioner, one.words, one.unknown) for one in captions] == [
        ("web", "", 3, 1),
        ("synthetic", "llava", 6, 0),
        ("synthetic", "other", 3, 1),
        ("human", "", 2, 0),
    ]
    tokens = readings().epochs(seen.record)[0].web.tokens
    assert [(token.text, token.kind) for token in tokens] == [
        ("BOS", "special"),
        ("red", "text"),
        ("bird", "text"),
        ("##s", "text"),
        ("UNK", "unknown"),
        ("EOS", "special"),
        ("CLS", "special"),
    ]


def test_what_rows_lose_is_shown():
    first = readings(context_length=5, target_length=6).epochs(two_captions().record)[0]
    assert (first.web.ids, first.web.cut, first.web.lost) == (2, 2, "##s [UNK]")
    assert first.target.ids == 4
    assert first.target.cut > 0
    short = readings(web_tokens=1).epochs(two_captions().record)[0]
    assert (short.web.text, short.web.cut) == ("red", 3)
    assert readings().epochs(two_captions().record)[0].target.cut == 0


def test_several_positives_and_no_text_tower():
    several = readings(positives=2).epochs(two_captions().record)[0]
    assert len(several.fragments) == 2
    alone = readings("captioning").epochs(two_captions().record)[0]
    assert (alone.web, alone.fragments) == (None, ())
    assert alone.target is not None
    for shown in ("clips", "captioning"):
        assert "Captioner" in look_html(look(make_card(two_captions(), readings(shown), DEFAULT_LIMITS)))


@pytest.mark.parametrize("method", ["clip", "mixture", "coca"])
def test_methods_that_read_one_text_show_one(method):
    first = readings(method).epochs(two_captions().record)[0]
    assert first.fragments == ()
    assert (first.target is None) == (method != "coca")
    assert "fragment" not in look_html(look(make_card(two_captions(), readings(method), DEFAULT_LIMITS)))


def test_problems_of_many_samples_are_named():
    equal = [SeenSample(f"k{n}", record(n, synthetic_caption="Same.")) for n in range(5)]
    bad = SeenSample("b", None, "skipped", "bad_record", "re_caption is a list of the characters of one text ('Red')")
    found = find_problems([make_card(seen, readings(), DEFAULT_LIMITS) for seen in [*equal, bad]])
    assert found[0] == f"1 of 6 samples are skipped as bad_record: {bad.detail}"
    assert any("5 synthetic captions are equal ('Same.')" in one for one in found)
    assert any("of the ids are UNK" in one for one in found)
    letters = [SeenSample(f"k{n}", record(n, synthetic_caption=letter)) for n, letter in enumerate("abcde")]
    found = find_problems([make_card(seen, readings(), DEFAULT_LIMITS) for seen in letters])
    assert any("the synthetic captions are single characters" in one for one in found)
    alone = [SeenSample(f"k{n}", None, "filtered", "no_table_row", f"no row has this key: k{n}") for n in range(2)]
    (found_join,) = find_problems([make_card(seen, readings(), DEFAULT_LIMITS) for seen in alone])
    assert found_join.startswith(
        "2 of 2 samples have no row among those that were searched (no row has this key: k0): "
    )
    lists = [SeenSample(f"k{n}", record(n, synthetic_caption=f"['A dog.', 'A cat {n}.']")) for n in range(5)]
    found = find_problems([make_card(seen, readings(), DEFAULT_LIMITS) for seen in lists])
    assert any("5 synthetic captions are lists written as text (\"['A dog.'" in one for one in found)
    cards = [make_card(two_captions(), readings(), DEFAULT_LIMITS)]
    (found_name,) = find_problems(cards, captioners=["lava", *(c.captioner for c in cards[0].captions if c.captioner)])
    assert found_name.startswith(
        "train.captions names the captioner 'lava', which has written no caption of these samples"
    )


def hostile_cards() -> list[Card]:
    read = SampleReadings(CaptionReader(CaptionConfig(), Words(), 0))
    seen = []
    for number, text in enumerate(TEXTS):
        captions = (Caption(text, text[:200]), Caption(TEXTS[-1 - number]))
        made = replace(record(number, key=text[:50] or "k"), web_captions=(text,), synthetic_captions=captions)
        seen += [
            SeenSample(text, replace(made, captions=(text,)), "used", "", "", 24, 20),
            SeenSample(text, made, "skipped", text[:40], text),
            SeenSample(text, None, "filtered", "low_score", text),
        ]
    return [make_card(one, read, DEFAULT_LIMITS) for one in seen]


def test_hostile_texts_do_nothing_on_the_page_or_in_the_terminal():
    shown = look(*hostile_cards())
    html = look_html(shown)
    assert "<script" not in html
    assert "onerror=" not in html.replace("onerror=&#34;", "")
    stream = io.StringIO()
    show_look(shown, Console(file=stream, force_terminal=True, color_system="truecolor", width=100))
    output = stream.getvalue()
    # Only colors of our own: no other escape sequence, no bell, no change of direction.
    assert "\x1b[31m red" not in output
    assert not {"\x07", "\x00", "\x7f", "\u202e", "\u2066"} & set(output)
    assert "\x1b]" not in output


def test_pictures_are_half_blocks_where_there_are_colors():
    card = make_card(SeenSample("k", record(0, image=image_bytes(7, (64, 64)))), readings(), DEFAULT_LIMITS)
    text = half_blocks(card.picture, 8)
    assert text.plain == ("▀" * 8 + "\n") * 4
    outputs = []
    for options in (
        {"force_terminal": True, "color_system": "truecolor"},
        {"force_terminal": True, "no_color": True},
        {},
    ):
        stream = io.StringIO()
        show_look(look(card), Console(file=stream, width=100, **options))
        outputs.append("▀" in stream.getvalue())
    assert outputs == [True, False, False]


def test_a_sample_without_a_picture_is_shown(tmp_path):
    cards = [
        make_card(
            SeenSample("k", record(0, image=b"no image"), "skipped", "unsupported_image", "why"),
            readings(),
            DEFAULT_LIMITS,
        ),
        make_card(SeenSample("n", None, "skipped", "missing_image", "why not"), readings(), DEFAULT_LIMITS),
    ]
    html = look_html(look(*cards))
    assert "no picture" in html
    assert "why not" in html
    assert cards[1].image == "not read"
    assert look(*cards).fates == {"skipped: unsupported_image": 1, "skipped: missing_image": 1}
    assert "The split has no sample" in look_html(look())
