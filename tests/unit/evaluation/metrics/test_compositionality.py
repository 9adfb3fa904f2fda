"""SugarCrepe and Winoground: scores computed by hand, and published files, valid and damaged."""

import json

import numpy as np
import pytest
from PIL import Image

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.config import CompositionalityConfig
from clips_pipeline.evaluation.metrics.compositionality import (
    CompositionalityResult,
    measure_compositionality,
    sugarcrepe_hits,
    winoground_hits,
)
from clips_pipeline.evaluation.metrics.pair_files import SUBSETS, read_entries
from clips_pipeline.evaluation.results import SET_VERSION


def vectors(*angles):
    """Return unit vectors at these angles in degrees."""
    turned = np.radians(angles)
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


def test_sugarcrepe_counts_the_nearer_caption_and_no_tie():
    hits = sugarcrepe_hits(vectors(0, 0, 0), vectors(10, 60, 30), vectors(40, 20, -30))
    assert hits.tolist() == [True, False, False]


def test_winoground_by_hand():
    # Images at 0 and 90 degrees. Captions: right for both; both nearer to the first image; exchanged.
    first, second = vectors(0, 0, 0), vectors(90, 90, 90)
    a, b = vectors(10, 5, 80), vectors(80, 20, 10)
    text, image = winoground_hits(first, second, a, b)
    # Second pair: each image finds its caption (5 < 20 degrees; 70 < 85), but caption b is nearer to the first image.
    assert text.tolist() == [True, True, False]
    assert image.tolist() == [True, False, False]


class ColorEmbedder:
    """Embedder by the red and blue of an image and the first color named in a text, without batches."""

    def images(self, images):
        found = [np.asarray(image, np.float32)[0, 0, [0, 2]] for image in images]
        return np.stack([v / np.linalg.norm(v) for v in found])

    def texts(self, texts):
        return np.stack([{"red": [1.0, 0.0], "blue": [0.0, 1.0]}[text.split()[1]] for text in texts]).astype(np.float32)


@pytest.fixture
def sets(tmp_path):
    images = tmp_path / "val2017"
    images.mkdir()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(images / "1.jpg")
    right = {"filename": "1.jpg", "caption": "a red cube", "negative_caption": "a blue cube"}
    wrong = {"filename": "1.jpg", "caption": "a blue cube", "negative_caption": "a red cube"}
    crepe = tmp_path / "sugarcrepe"
    crepe.mkdir()
    for number, subset in enumerate(SUBSETS):
        (crepe / f"{subset}.json").write_text(json.dumps({"0": right, "1": wrong if number == 0 else right}))
    winoground = tmp_path / "winoground"
    (winoground / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4), (255, 0, 0)).save(winoground / "images" / "ex_0_img_0.png")
    Image.new("RGB", (4, 4), (0, 0, 255)).save(winoground / "images" / "ex_0_img_1.png")
    good = {
        "image_0": "ex_0_img_0",
        "image_1": "ex_0_img_1",
        "caption_0": "a red on blue",
        "caption_1": "a blue on red",
    }
    swapped = {**good, "caption_0": good["caption_1"], "caption_1": good["caption_0"]}
    (winoground / "examples.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(swapped) + "\n")
    return CompositionalityConfig(str(crepe), str(images), str(winoground))


def test_published_files(sets):
    found = measure_compositionality(ColorEmbedder(), read_entries(sets))
    metrics, chance = found.metrics, found.chance
    assert metrics["sugarcrepe/add_att/accuracy"] == 0.5
    assert metrics["sugarcrepe/swap_obj/accuracy"] == 1.0
    assert metrics["sugarcrepe/mean/accuracy"] == pytest.approx(6.5 / 7)
    assert [metrics[f"winoground/all/{name}_score"] for name in ("text", "image", "group")] == [0.5, 0.5, 0.5]
    assert metrics.keys() == chance.keys()


def test_rows_contain_hits_and_set_version(sets, tmp_path):
    def versions():
        found = measure_compositionality(ColorEmbedder(), read_entries(sets)).rows
        return {row["set"]: row[SET_VERSION] for row in found}

    rows = measure_compositionality(ColorEmbedder(), read_entries(sets)).rows
    first = versions()
    assert rows[1] == {
        "set": "sugarcrepe",
        "key": "add_att/1",
        "subset": "add_att",
        "image": "1.jpg",
        "right": False,
        SET_VERSION: first["sugarcrepe"],
    }
    assert [(row["key"], row["text_right"], row["image_right"]) for row in rows if row["set"] == "winoground"] == [
        ("1", True, True),
        ("2", False, False),
    ]
    assert versions() == first
    # Another image under the same name, and then another caption.
    Image.new("RGB", (4, 4), (200, 0, 0)).save(tmp_path / "val2017" / "1.jpg")
    second = versions()
    assert second["winoground"] == first["winoground"]
    path = tmp_path / "winoground" / "examples.jsonl"
    path.write_text(path.read_text().replace("a red on blue", "a red on  blue"))
    third = versions()
    assert third["sugarcrepe"] == second["sugarcrepe"] != first["sugarcrepe"]
    assert third["winoground"] != first["winoground"]


def test_no_sets_configured_gives_no_metrics():
    assert measure_compositionality(ColorEmbedder(), read_entries(CompositionalityConfig())) == CompositionalityResult(
        {}, {}, []
    )


def test_one_of_two_folders_is_refused():
    with pytest.raises(ConfigError, match="requires sugarcrepe_images"):
        CompositionalityConfig(sugarcrepe="x")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("sugarcrepe/swap_att.json", None, "swap_att.json: no such file"),
        ("sugarcrepe/swap_att.json", "{", "swap_att.json: not valid JSON"),
        ("sugarcrepe/swap_att.json", "[" * 100_000, "swap_att.json: not valid JSON"),
        ("sugarcrepe/swap_att.json", "9" * 5_000, "swap_att.json: not valid JSON"),
        ("sugarcrepe/swap_att.json", "[]", "expected a JSON object"),
        ("sugarcrepe/swap_att.json", "{}", "has no entries"),
        (
            "sugarcrepe/swap_att.json",
            '{"7": {"filename": "1.jpg", "caption": "a red"}}',
            "entry 7: lacks negative_caption",
        ),
        (
            "sugarcrepe/swap_att.json",
            '{"7": {"filename": "2.jpg", "caption": "a red", "negative_caption": "a blue"}}',
            r"entry 7: image .*2\.jpg does not exist",
        ),
        ("winoground/examples.jsonl", None, "examples.jsonl: no such file"),
        ("winoground/examples.jsonl", "", "has no entries"),
        ("winoground/examples.jsonl", '{"image_0": "ex_0_img_0"}', "line 1: lacks image_1, caption_0, caption_1"),
        ("winoground/images/ex_0_img_1.png", None, r"line 1: image .*ex_0_img_1\.png does not exist"),
        ("winoground/images/ex_0_img_1.png", "no picture", r"ex_0_img_1\.png: cannot be decoded"),
    ],
)
def test_damaged_sets_are_refused(sets, tmp_path, file, content, message):
    path = tmp_path / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        measure_compositionality(ColorEmbedder(), read_entries(sets))


def test_a_line_separator_within_a_caption_does_not_end_the_line(sets, tmp_path):
    path = tmp_path / "winoground" / "examples.jsonl"
    entry = json.loads(path.read_text().splitlines()[0]) | {"caption_0": "a red\u2028on blue"}
    path.write_text(json.dumps(entry, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [found[2] for found in read_entries(sets).winoground] == ["a red\u2028on blue"]
