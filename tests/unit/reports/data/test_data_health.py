"""Data health report: its numbers, and robustness against arbitrary data."""

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.data.samples import ListSource, image_bytes, record
from tests.unit.reports.data.hostile_texts import TEXTS, Words, hostile_shards
from tests.unit.reports.test_page import Page

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.statistics import STATISTICS_FILE
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.records import Caption, Skip
from clips_pipeline.reports.data.data_health import Card, HealthConfig, write_data_health
from clips_pipeline.reports.page import summary_of
from clips_pipeline.text.caption_rows import CaptionConfig
from clips_pipeline.text.fragments import FragmentConfig

CAPTIONS = CaptionConfig()


def rows(html: str, caption: str) -> list[list[str]]:
    """Return the cells of the table with this caption, as text."""
    found = re.search(rf"<caption><span>{re.escape(caption)}.*?</table>", html, re.DOTALL)
    assert found is not None
    body = found[0].partition("<tbody>")[2]
    return [
        [Page(cell).text for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Report of five samples, one of which duplicates the image and web caption of another."""
    folder = tmp_path_factory.mktemp("health")
    train = [
        record(0, image=image_bytes(0, (40, 20)), web_caption="a b c", synthetic_caption="One two. Three four five."),
        record(1, image=image_bytes(1, (20, 20)), web_caption="w " * 100, synthetic_caption="Six seven. Eight."),
        record(2, image=image_bytes(0, (40, 20)), web_caption="a b c", synthetic_caption="Nine ten. Yes."),
        record(3, image=image_bytes(3, (20, 60)), web_caption="the same. Text", synthetic_caption="the same. Text"),
        Skip("empty_web_caption", "bad", "no text beside the image"),
    ]
    source = ListSource({"train": [train], "test": [[record(9, captions=("by a person",), label=3)]]})
    prepare(source, folder / "shards", max_skipped_fraction=0.5)  # type: ignore[arg-type]
    write_data_health(folder / "shards", Words(), CAPTIONS, HealthConfig(), folder / "new" / "report.html")
    return (folder / "new" / "report.html").read_text(encoding="utf-8")


def test_samples_by_reason(report: str) -> None:
    assert rows(report, "Samples by split and reason") == [
        ["train", "in the index", "", "4", "80.0 %"],
        ["train", "unusable", "empty_web_caption", "1", "20.0 %"],
        ["test", "in the index", "", "1", "100.0 %"],
    ]
    examples = rows(report, "First examples by split and reason")
    assert examples == [["train", "empty_web_caption", "0", "bad", "no text beside the image"]]


def test_caption_lengths(report: str) -> None:
    found = {(row[0], row[1]): row[2:] for row in rows(report, "Lengths in ids")}
    #                                        texts  median 95 %   longest cut       empty    instead unknown
    assert found["train", "web caption"] == ["4", "3", "100", "100", "25.0 %", "0.0 %", "0", "0.0 %"]
    assert found["train", "synthetic caption"] == ["4", "3", "5", "5", "0.0 %", "0.0 %", "0", "0.0 %"]
    assert found["train", "fragment: truncation"] == ["4", "3", "5", "5", "0.0 %", "0.0 %", "0", "0.0 %"]
    assert found["test", "human captions"][:3] == ["1", "3", "3"]
    # Only the test split has human captions.
    assert len(found) == 13
    assert rows(report, "Sentences per synthetic caption")[0] == [
        *("train", "2", "2", "2", "0.0 %", "0.0 %", "100.0 %", "0.0 %", "0.0 %")
    ]


def test_images_and_duplicates(report: str) -> None:
    found = {(row[0], row[1]): row[2:] for row in rows(report, "Images")}
    assert found["train", "width in pixels"][-2:] == ["20", "40"]
    assert found["train", "height in pixels"][-2:] == ["20", "60"]
    assert found["train", "width : height"][-2:] == ["0.33", "2.00"]
    assert rows(report, "Duplicates")[:3] == [
        ["train", "image identical to an earlier one", "1", "25.0 %"],
        ["train", "web caption identical to an earlier one", "1", "25.0 %"],
        ["train", "web and synthetic caption identical", "1", "25.0 %"],
    ]


def test_summary_says_what_is_wrong(report: str) -> None:
    summary = Page(summary_of(report))
    assert "25.0 % of the web captions are truncated: they are longer than the 77 ids" in summary.text
    assert "20.0 % of the samples are unusable; the most frequent reason is empty_web_caption" in summary.text
    assert "25.0 % of the images are exact duplicates" in summary.text
    assert rows(summary_of(report), "Lengths are medians")[0][:3] == ["train", "4", "1"]


def test_the_contact_sheet_shows_images_and_all_captions(report: str) -> None:
    sheet = report.partition('id="contact_sheet"')[2]
    assert Page(sheet).text.count("by a person") == 1
    assert "k0009, label 3" in Page(sheet).text
    images = re.findall(r'alt="image of k0000, 40 × 20 pixels" src="data:image/webp;base64,(.*?)"', sheet)
    with Image.open(io.BytesIO(base64.b64decode(images[0]))) as shown:
        assert shown.size == (40, 20)


def test_thumbnails_are_small_and_reencoded() -> None:
    noisy = record(0, image=image_bytes(0, (900, 300), "JPEG") + b"<script>", extension="jpg")
    card = Card.of(noisy)
    assert card.small is not None
    assert b"<script>" not in card.small.webp
    with Image.open(io.BytesIO(card.small.webp)) as shown:
        assert max(shown.size) == 256
    broken = Card.of(replace(noisy, image=b"<script>alert(1)</script>"))
    assert (broken.small, broken.error) == (None, "UnsupportedImageError")


def test_hostile_data_stays_text(tmp_path: Path) -> None:
    hostile_shards(tmp_path / "shards")
    file = write_data_health(tmp_path / "shards", Words(), CAPTIONS, HealthConfig(), tmp_path / "report.html")
    page = Page(file.read_text(encoding="utf-8"))
    assert {"script", "style", "h1"} & set(page.tags) == {"style", "h1"}
    assert (page.tags.count("style"), page.tags.count("h1")) == (1, 1)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert {value[:11] for _, name, value in page.attributes if name == "src" and value} == {"data:image/"}
    for text in TEXTS[:5]:
        assert text in page.text
    # A caption of 10,000 characters is truncated.
    assert "x" * 1_100 not in page.text


def test_the_same_data_gives_the_same_page(tmp_path: Path) -> None:
    hostile_shards(tmp_path / "shards")
    files = [tmp_path / "a.html", tmp_path / "b.html"]
    for file in files:
        write_data_health(tmp_path / "shards", Words(), CAPTIONS, HealthConfig(samples=3, examples=2), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    text = files[0].read_text(encoding="utf-8")
    assert "3 of 12 samples, from 1 of 1 shards" in " ".join(Page(text).text.split())
    assert text.count("<article>") == 4
    write_data_health(tmp_path / "shards", Words(), CAPTIONS, HealthConfig(examples=0), files[0])
    assert "<article>" not in files[0].read_text(encoding="utf-8")


def test_a_set_without_captions_has_a_report_too(tmp_path: Path) -> None:
    records = [record(i, web_caption="", synthetic_caption="", label=i) for i in range(3)]
    prepare(ListSource({"test": [records]}, needs_captions=False), tmp_path / "shards")  # type: ignore[arg-type]
    file = write_data_health(tmp_path / "shards", Words(), CAPTIONS, HealthConfig(), tmp_path / "report.html")
    html = file.read_text(encoding="utf-8")
    assert rows(html, "Lengths in ids") == rows(html, "Sentences per synthetic caption") == []
    assert rows(html, "Lengths are medians")[0] == ["test", "3", "0", rows(html, "Shards")[0][3], "0", "0", "–", "–"]
    assert [item for item in re.findall(r"<li>(.*?)</li>", summary_of(html)) if "only 3 samples" not in item] == []


def test_lengths_are_those_of_the_training(tmp_path: Path) -> None:
    """Half of the synthetic captions have 49 ids: with a target of 48 each of them is truncated, and the page says so."""
    records = [record(i, web_caption="a b", synthetic_caption="w " * (49 if i % 2 else 20)) for i in range(10)]
    prepare(ListSource({"train": [records]}), tmp_path / "shards")  # type: ignore[arg-type]
    captions = CaptionConfig(context_length=32, target_length=48, fragment=FragmentConfig("truncation", tokens=10))
    file = write_data_health(tmp_path / "shards", Words(), captions, HealthConfig(), tmp_path / "report.html")
    html = file.read_text(encoding="utf-8")
    found = {row[1]: row[2:] for row in rows(html, "Lengths in ids")}
    assert found["synthetic caption"][4] == "50.0 %"
    assert found["fragment: truncation"][1:4] == ["10", "10", "10"]
    assert (
        "50.0 % of the synthetic captions are truncated: they are longer than the 46 ids of a target row of length 48"
        in Page(html).text
    )
    assert "a context of 32 (web) or a target of 48 (synthetic)" in Page(html).text
    assert "train.captions.target_length" in summary_of(html)
    assert "truncation with a budget of 10 ids" in " ".join(Page(html).text.split())


def test_missing_statistics_are_one_clear_error(tmp_path: Path) -> None:
    hostile_shards(tmp_path / "shards")
    (tmp_path / "shards" / STATISTICS_FILE).unlink()
    assert load_index(tmp_path / "shards").splits
    with pytest.raises(ConfigError, match=r"statistics\.json: no such file; run"):
        write_data_health(tmp_path / "shards", Words(), CAPTIONS, HealthConfig(), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("changes", "message"), [({"samples": 0}, "samples: 0"), ({"examples": -1}, "examples: -1")])
def test_settings_out_of_range(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(HealthConfig, changes, "health")


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys, clips_pipeline.reports.data.data_health; "
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'pyarrow', 'fsspec', 'kedro') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_captioners_and_their_captions_are_shown(tmp_path: Path) -> None:
    """Names and texts are those of others: markup is shown as text."""
    train = [
        record(
            number,
            web_captions=("one", "two") if number == 0 else ("one",),
            synthetic_captions=(
                Caption(f"Five words and one full {number}. Stop.", "llava"),
                *((Caption("Two words.", "<b>blip"),) if number % 4 == 0 else ()),
            ),
        )
        for number in range(8)
    ]
    source = ListSource({"train": [list(train)]})
    prepare(source, tmp_path / "shards")  # type: ignore[arg-type]
    page = write_data_health(tmp_path / "shards", Words(), CAPTIONS, HealthConfig(), tmp_path / "report.html")
    html = page.read_text(encoding="utf-8")
    assert "<b>blip" not in html
    assert rows(html, "Captions per image") == [
        ["train", "web captions per image", "1", "1.12", "2"],
        ["train", "synthetic captions per image", "1", "1.25", "2"],
    ]
    assert rows(html, "Captioners; lengths in words") == [
        ["train", "<b>blip", "2", "25.0 %", "75.0 %", "2", "2", "2"],
        ["train", "llava", "8", "100.0 %", "0.0 %", "8", "7", "7"],
    ]
    text = Page(html).text
    assert "captioner <b>blip has written captions of 25.0 % of the samples only" in text
    assert "100.0 % of the samples have one and the same web caption, 'one'" in text
    assert [row[:3] for row in rows(html, "Lengths in ids") if "synthetic" in row[1]] == [
        ["train", "synthetic caption", "10"],
        ["train", "synthetic caption by <b>blip", "2"],
        ["train", "synthetic caption by llava", "8"],
    ]


def test_plain_captions_have_no_table_of_captioners(report: str) -> None:
    assert "Every image has at most one web caption and one synthetic caption" in Page(report).text
