"""The contact sheet must take whatever records hold."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clips_pipeline.demo.contact_sheet import contact_sheet
from clips_pipeline.demo.source import ScenesConfig, scene_record
from clips_pipeline.shards.records import Record


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_sheet_shows_the_pictures(tmp_path: Path) -> None:
    records = [scene_record(ScenesConfig(), "test", index) for index in range(3)]
    sheet = pixels(contact_sheet(records, tmp_path / "new" / "sheet.png"))
    assert sheet.shape[1] > sheet.shape[0] // 2
    # Nearest-neighbour enlargement keeps the colours of the picture.
    for record in records:
        with Image.open(io.BytesIO(record.image)) as image:
            colours = {tuple(c) for c in np.asarray(image).reshape(-1, 3)[::97]}
        shown = {tuple(c) for c in sheet.reshape(-1, 3)}
        assert len(colours & shown) > 0.9 * len(colours)


def test_captions_change_the_sheet(tmp_path: Path) -> None:
    record = scene_record(ScenesConfig(), "test", 0)
    one = pixels(contact_sheet([record], tmp_path / "one.png"))
    for change in ({"web_caption": "x"}, {"captions": ("y", "z")}, {"label": None}):
        two = pixels(contact_sheet([replace(record, **change)], tmp_path / "two.png"))
        assert one.shape != two.shape or (one != two).any()


@pytest.mark.parametrize(
    "caption",
    [
        "from $5 to $9 $\\frac{1$",
        "",
        "   ",
        "猫と家 🐱 naïve",
        "line\nbreak\ttab\x00null",
        "x" * 5_000,
        "word " * 3_000,
    ],
)
def test_any_text_can_be_drawn(caption: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (30, 90), 128).save(buffer, format="PNG")
    record = Record("key$1", buffer.getvalue(), "png", caption, caption, (caption,), None)
    sheet = pixels(contact_sheet([record], tmp_path / "sheet.png", columns=1))
    assert sheet.shape[0] < 900


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one record"):
        contact_sheet([], tmp_path / "sheet.png")
