"""Prepared data with texts that try to break out of the page, and a tokenizer with one id per word."""

from collections.abc import Sequence
from pathlib import Path

from tests.unit.data.samples import ListSource, image_bytes, record

from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards.index import Index
from clips_pipeline.data.shards.records import Skip
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

TEXTS = [
    "<script>window.hacked = 1; alert(1)</script>",
    '"><img src=x onerror="window.hacked=1;alert(1)">',
    "' onmouseover='window.hacked=1' x='",
    "</style></title></svg></table><h1>out</h1><style>* { display: none }</style>",
    "<!-- end of summary --><!-- <b>",
    "\u202egnirts desrever \u2066 isolate \u200f mark",
    "שלום עולם مرحبا بالعالم 12 < 34",
    "nul \x00 bell \x07 escape \x1b[31m red \x7f",
    "x" * 10_000,
    "word " * 2_000,
    "Z̴̢̛͕̫͔" * 200,
    "{{ 7 * 7 }} ${alert(1)} &lt;b&gt; &#60;script&#62;",
]

KEYS = ["<script>alert(1)<|script>", '"onload="alert(1)', "\u202eyek", "k" * 200, "דג", "&amp;", "' x='"]


class Words(Tokenizer):
    """Tokenizer with one id per word; `xyz` is unknown."""

    kind = "words"
    vocab_size, unk_id, cls_id = 10, 4, 3

    def body(self, text: str) -> list[int]:
        return [self.unk_id if word == "xyz" else 5 for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join("xyz" if index == self.unk_id else "word" for index in self._readable(ids))

    def save(self, folder: Path | str) -> None:
        self._write_config(folder)


def hostile_shards(folder: Path) -> Index:
    """Prepare shards with hostile texts in all fields, and as many skipped samples."""
    good = [
        record(
            number,
            key=KEYS[number % len(KEYS)] + str(number),
            image=image_bytes(number, (640 if number % 2 else 24, 20)),
            web_caption=text,
            synthetic_caption=TEXTS[-1 - number],
            captions=tuple(TEXTS) if number == 0 else (text,),
            label=number,
        )
        for number, text in enumerate(TEXTS)
    ]
    bad = [Skip("not_utf8", text, text) for text in TEXTS] + [Skip(TEXTS[0], "k", TEXTS[1])]
    parts = {"train": [[*good, *bad]], "test": [good[:2]]}
    return prepare(ListSource(parts), folder, max_skipped_fraction=0.9)  # type: ignore[arg-type]
