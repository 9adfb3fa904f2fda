"""metrics.json, the HTML report and its figure."""

import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.report import rank_figure, report_html, write_report
from clips_pipeline.evaluation.results import (
    CaptionExample,
    EvaluationResult,
    ImageExample,
    Picture,
    check_finite,
    write_metrics,
)

HOSTILE = '<script>alert("1")</script> & "quotes"'


def picture(key="k"):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(stream, "PNG")
    return Picture(key, stream.getvalue(), "png")


def result(**changes):
    values = {
        "set_name": "scenes",
        "metrics": {"retrieval/scenes/mean_recall@1": 0.25, "caption/scenes/loss": 3.5},
        "chance": {"retrieval/scenes/mean_recall@1": 0.0625},
        "per_item": [
            {"key": "a", "image_to_text_rank": 0, "text_to_image_ranks": [0, 1]},
            {"key": "b", "image_to_text_rank": None, "text_to_image_ranks": []},
        ],
        "image_examples": (ImageExample(picture(HOSTILE), 2, ((HOSTILE, True), ("other", False))),),
        "caption_examples": (CaptionExample(HOSTILE, 0, ((picture("x"), True), (picture("y"), False))),),
    }
    return EvaluationResult(**(values | changes))


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def test_metrics_are_flat_json(tmp_path):
    write_metrics({"b": 1.0, "a": 0.5}, tmp_path / "new" / "metrics.json")
    text = (tmp_path / "new" / "metrics.json").read_text()
    assert json.loads(text) == {"a": 0.5, "b": 1.0}
    assert text.index('"a"') < text.index('"b"')
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_no_number_is_named_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "metrics.json"
    write_metrics({"good": 1.0}, path)
    with pytest.raises(ConfigError, match=r"caption/scenes/loss is (nan|inf|-inf)"):
        write_metrics({"good": 2.0, "caption/scenes/loss": value}, path)
    assert json.loads(path.read_text()) == {"good": 1.0}
    with pytest.raises(ConfigError, match="caption/scenes/loss"):
        result(metrics={"caption/scenes/loss": value})
    check_finite({"good": 1.0})


def test_the_report_is_one_file_without_foreign_markup(tmp_path):
    path = write_report(result(), tmp_path / "report")
    page = Page(path.read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) == 2
    assert ("img", "alt", HOSTILE) in page.attributes
    sources = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 4
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert not re.search(r"https?:", path.read_text())


def test_the_report_shows_values_chance_and_which_answer_is_right():
    html = report_html(result(), b"")
    row = re.search(r"<tr><th scope=\"row\">retrieval/scenes/mean_recall@1</th>(.*?)</tr>", html).group(1)
    assert re.findall(r">([\d.]+)<", row) == ["0.2500", "0.0625"]
    page = Page(html)
    assert [v for tag, name, v in page.attributes if (tag, name) == ("li", "class")] == ["right"]
    assert [v for tag, name, v in page.attributes if (tag, name) == ("img", "class")] == ["right"]
    assert "2 wrong before the right one" in page.text
    assert "found first" in page.text


def test_no_examples_no_sections():
    page = report_html(result(image_examples=(), caption_examples=()), b"")
    assert "<h2>" not in page


def test_a_set_without_captions_has_no_figure_of_recall(tmp_path):
    write_report(result(), tmp_path)
    rows = [{"key": "a", "image_to_text_rank": None, "text_to_image_ranks": [], "zero_shot_rank": 0}]
    only_classes = result(
        metrics={"zero_shot/set/accuracy@1": 1.0}, chance={}, per_item=rows, image_examples=(), caption_examples=()
    )
    text = write_report(only_classes, tmp_path).read_text()
    assert "<img" not in text
    assert "zero_shot/set/accuracy@1" in text
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.html"]


def test_the_figure_is_a_png_and_the_same_for_the_same_result(tmp_path):
    write_report(result(), tmp_path)
    data = (tmp_path / "retrieval_ranks.png").read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (700, 400)
    assert rank_figure(result()) == data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set_name": ""}, "set_name"),
        ({"set_name": "a/b"}, "set_name"),
        ({"batch_size": 0}, "batch_size"),
        ({"examples": -1}, "examples"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ConfigError, match=message):
        EvaluationConfig(**changes)
