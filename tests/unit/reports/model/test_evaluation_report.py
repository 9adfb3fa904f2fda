"""metrics.json, the two model reports, and the rank figure."""

import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image
from tests.unit.reports.data.hostile_texts import TEXTS
from tests.unit.reports.model.model_report_data import METRIC, facts, report_data, result, rows

from clips_pipeline.config import ConfigError, from_mapping, to_mapping, with_current_names
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.per_item.comparison import Difference
from clips_pipeline.evaluation.per_item.items import items_from_rows
from clips_pipeline.evaluation.report_data import ReportData
from clips_pipeline.evaluation.results import check_finite
from clips_pipeline.reports.model.figures import interval_figure, rank_figure, recall_curves
from clips_pipeline.reports.model.pages import evaluation_html, model_html, write_evaluation
from clips_pipeline.reports.model.scores import MetricScore, score_metrics, select_headlines
from clips_pipeline.reports.model.training_curves import training_charts

HOSTILE = '<script>alert("1")</script> & "quotes"'


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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_is_named(value):
    with pytest.raises(ConfigError, match=r"caption/scenes/loss is (nan|inf|-inf)"):
        result([HOSTILE], metrics={"caption/scenes/loss": value})
    check_finite({"good": 1.0})


def test_each_page_is_one_file_without_foreign_markup(tmp_path):
    path = write_evaluation(result([HOSTILE]), tmp_path / "report" / "evaluation.html")
    whole = model_html(facts([HOSTILE]), report_data([HOSTILE]), rows(30))
    for html, links in ((path.read_text(encoding="utf-8"), 0), (whole, 1)):
        page = Page(html)
        assert "script" not in page.tags
        assert page.text.count(HOSTILE) >= 10
        assert ("img", "alt", f"image {HOSTILE}: {HOSTILE}") in page.attributes
        assert all(value.startswith("data:image/webp;base64,") for _, name, value in page.attributes if name == "src")
        elsewhere = [value for _, name, value in page.attributes if name == "href" and not value.startswith("#")]
        assert elsewhere == ["http://127.0.0.1:5000/#/runs/1"] * links
        assert len(page.tags) == len(re.findall(r"<[a-z]", html))
        ids = [value for _, name, value in page.attributes if name == "id"]
        assert len(ids) == len(set(ids))


def test_every_image_and_figure_has_alternative_text():
    page = Page(model_html(facts(["a"]), report_data(["a"]), rows(30)))
    assert len(
        [1 for tag, name, value in page.attributes if (tag, name) == ("img", "alt") and value]
    ) == page.tags.count("img")
    described = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(described) == page.tags.count("svg") == 5
    assert "contrastive loss by step: both from 2.99 to 2.61" in described
    assert page.attributes.count(("svg", "role", "img")) == 5


def test_figures_use_css_variables_for_colors():
    html = model_html(facts(["a"]), report_data(["a"]), rows(30))
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert drawings
    assert not re.search(r"#[0-9a-f]{6}\b(?!-)", "".join(drawings))
    assert "var(--series-1)" in drawings[0]
    assert html == model_html(facts(["a"]), report_data(["a"]), rows(30))


def test_the_headline_shows_value_interval_chance_and_the_champion():
    html = model_html(facts(["a"]), report_data(["a"]), rows(30))
    card = Page(re.search(r"retrieval: mean recall at 1</h3>(.*?)</section>", html, re.DOTALL).group(1)).text
    assert re.fullmatch(
        r"25.0 % 95 % interval [\d.]+ to [\d.]+ %, chance 6.2 % ▲ significantly better than the champion"
        r"champion 18.8 %, difference "
        r"\+37.5 points \(\+[\d.]+ points to \+[\d.]+ points\) retrieval/scenes/mean_recall@1",
        " ".join(card.split()),
    )
    # The losses are equal in both, which is not a win.
    assert "no significant difference" in html
    alone = model_html(facts(["a"], champion=None), report_data(["a"]), rows(30))
    assert "significantly" not in alone
    assert "won : lost" not in alone


def test_the_headline_has_one_metric_per_kind():
    metrics = {"retrieval_long/scenes/mean_recall@1": 0.3, METRIC: 0.2, "caption/scenes/loss": 2.0}
    found = select_headlines([MetricScore(name, value) for name, value in metrics.items()], METRIC)
    assert [one.metric for one in found] == [METRIC, "caption/scenes/loss"]


def test_the_legend_names_the_champion_where_any_metric_has_one():
    ahead = Difference(METRIC, 0.25, 0.5, 0.1, 0.4, 1.0, 9, 1, 0.02)
    first = MetricScore(METRIC, 0.5, (0.4, 0.6), 0.1, ahead, (0.2, 0.3))
    last = MetricScore("winoground/all/text_score", 0.5, (0.4, 0.6), 0.25)
    figure = interval_figure([first, last])
    assert [figure.count(name) for name in (">this model<", ">champion<", ">chance<")] == [1, 1, 1]
    assert ">champion<" not in interval_figure([last])


def test_only_fractions_are_shown_in_percent():
    cider, recall = MetricScore("caption/scenes/cider", 1.25, (1.1, 1.4)), MetricScore(METRIC, 0.5, (0.4, 0.6))
    html = model_html(replace(facts(["a"], None), found=[cider], metric=cider.metric), report_data(["a"]), rows(30))
    card = Page(re.search(r'<section class="figure-card">(.*?)</section>', html, re.DOTALL).group(1)).text
    assert " ".join(card.split()) == "caption: cider1.250 95 % interval 1.100 to 1.400 caption/scenes/cider"
    # It does not extend the axis of the fractions either.
    described = re.search(r"Metrics with 95% intervals: ([^<\"]*)", interval_figure([cider, recall])).group(1)
    assert described == "retrieval: mean recall at 1 0.500, 0.4000 to 0.6000"
    assert '<td class="number">1.2500</td><td class="number">1.1000 to 1.4000</td>' in html


def test_verdicts_follow_the_interval_and_the_direction_of_the_metric():
    few, many = items_from_rows(rows(5)), items_from_rows(rows(35))

    def of(metrics, mine, other):
        champion = None if other is None else {"scenes": other}
        return [one.verdict for one in score_metrics(metrics, {}, {"scenes": mine}, champion, resamples=200)]

    assert of({METRIC: 0.1}, many, few) == ["better"]
    assert of({METRIC: 0.1}, few, many) == ["worse"]
    assert of({METRIC: 0.1}, few, few) == ["even"]
    assert of({METRIC: 0.1, "x/scenes/unknown": 1.0}, few, None) == ["", ""]
    dearer = items_from_rows([{**row, "caption_nats": 9.0} for row in rows(5)])
    assert of({"caption/scenes/loss": 1.0}, dearer, few) == ["worse"]
    with pytest.raises(ConfigError, match="different items"):
        of({METRIC: 0.1}, few, items_from_rows(rows(5, images=7)))


def test_answers_are_marked_and_a_low_ranked_right_one_is_shown():
    page = Page(evaluation_html(result([HOSTILE])))
    # Of the queries, and of two questions.
    assert [v for tag, name, v in page.attributes if (tag, name) == ("li", "class")] == ["right"] * 3
    # The right one among the first answers, and the one at rank 10.
    assert [v for tag, name, v in page.attributes if (tag, name) == ("img", "class")] == ["right", "right"]
    assert ("div", "class", "answer far") in page.attributes
    for words in (
        "2 wrong answers before the right one",
        "right answer first",
        "✓ 10",
        "✗ other",
        "✓ mine",
        "its own captions",
    ):
        assert words in page.text


def test_questions_are_a_table_with_examples_the_preferred_caption_first():
    html = evaluation_html(result([HOSTILE]))
    section = Page(html.split('<h2 id="compositionality"')[1].split("<h2")[0])
    words = " ".join(section.text.split())
    # 40 images with 0, 1 or 2 questions each.
    assert re.search(r"swap color ?39 ?75\.0 % ?[\d.]+ to [\d.]+ %", words)
    assert re.search(r"mean ?39 ?75\.0 %", words)
    right, wrong = words.split(": right ")[1], words.split(": wrong ")[1]
    assert right.index("✓") < right.index("✗ not")
    assert wrong.index("✗ not") < wrong.index("✓")


def test_report_data_survives_a_round_trip_through_json():
    shown = report_data(TEXTS)
    assert from_mapping(ReportData, json.loads(json.dumps(to_mapping(shown))), "report_data") == shown


def test_report_data_of_earlier_releases_is_read():
    shown = report_data(TEXTS)
    old = json.loads(json.dumps(to_mapping(shown)))
    for example in (*old["worst_images"], *old["even_images"], *old["captioned"]):
        example["picture"] = example.pop("image")
        example["picture"]["about"] = example["picture"].pop("alt_text")
    for example in (*old["worst_captions"], *old["even_captions"]):
        example["pictures"] = example.pop("images")
    for mistake in old["confusion"]["mistakes"]:
        for former, name in (("of", "label"), ("taken_for", "prediction"), ("of_images", "label_images")):
            mistake[former] = mistake.pop(name)
    assert from_mapping(ReportData, with_current_names(ReportData, old), "report_data") == shown


def test_sections_without_data_are_left_out():
    def titles(**changes):
        return re.findall(r'<h2 id="([^"]*)"', evaluation_html(result([HOSTILE], **changes)))

    every = ["all_metrics", "retrieval", "compositionality", "captions", "embedding_map", "zero_shot"]
    assert titles() == every
    shown = report_data([HOSTILE])
    assert titles(report_data=replace(shown, captioned=(), embedding_map=None, confusion=None)) == every[:3]
    unranked = [
        {**row, "image_to_text_rank": None, "text_to_image_ranks": [], "zero_shot_rank": None} for row in rows(1)
    ]
    assert (
        titles(report_data=ReportData("scenes"), per_item=unranked, metrics={"caption/scenes/loss": 1.0}) == every[:1]
    )


def test_long_curves_are_averaged_and_keep_their_extremes():
    steps = range(1, 20_001)
    history = [{"step": i, "samples": 8 * i, "loss_caption": 9.0 if i == 777 else 2.0} for i in steps]
    charts = training_charts(history)
    assert [chart.title for chart in charts] == ["caption loss"]
    assert len(charts[0].svg) < 60_000
    assert "caption loss by step: synthetic caption from 2 to 2" in charts[0].svg
    assert training_charts([]) == []
    assert "No training steps were logged." in model_html(
        replace(facts(["a"]), history=[]), report_data(["a"]), rows(30)
    )
    hole = [{"step": 1, "samples": 8, "loss_caption": math.nan}, {"step": 2, "samples": 16, "loss_caption": 1.5}]
    assert "synthetic caption from 1.5 to 1.5" in training_charts(hole)[0].svg


def test_chance_of_the_contrastive_loss_is_drawn_for_the_softmax_only():
    history = [{"step": i, "samples": 8 * i, "loss_contrastive": 2.0} for i in (1, 2)]
    (softmax,), (sigmoid,) = training_charts(history), training_charts(history, "sigmoid")
    assert "chance level" in softmax.about
    assert "chance" not in sigmoid.about
    assert len(sigmoid.svg) < len(softmax.svg)


def test_the_rank_figure_shows_chance_per_direction():
    """1,000 images with 5 captions each: from image to text chance has 5,000 candidates, and from text to image 1,000."""
    ranked = [
        {"image_to_text_rank": 0, "text_to_image_ranks": [0] * 5, "label": None, "zero_shot_rank": None}
        for _ in range(1_000)
    ]
    figure = Figure()
    recall_curves(ranked, figure, on_paper=True)
    dotted = {
        line.get_color(): line for line in figure.axes[0].lines if line.get_linestyle() == ":" and len(line.get_xdata())
    }
    to_text, to_image = (dotted[color] for color in ("#0057b8", "#d1495b"))
    assert (to_text.get_xdata()[-1], to_image.get_xdata()[-1]) == (5_000, 1_000)
    assert to_text.get_ydata()[[0, -1]] == pytest.approx([1 / 1_000, 1])
    # Of 10 captions drawn one is among its own five with 1 - (1 - 5 / 5000) ** 10, nearly.
    at = dict(zip(to_text.get_xdata(), to_text.get_ydata(), strict=True))
    k = min(at, key=lambda k: abs(k - 10))
    assert at[k] == pytest.approx(1 - (1 - 5 / 5_000) ** k, rel=0.01)
    assert dict(zip(to_image.get_xdata(), to_image.get_ydata(), strict=True))[1_000] == 1.0


def test_the_figure_is_a_png_and_the_same_for_the_same_result():
    data = rank_figure(rows(20))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (700, 400)
    assert rank_figure(rows(20)) == data
    unranked = [
        {**row, "image_to_text_rank": None, "text_to_image_ranks": [], "zero_shot_rank": None} for row in rows(1)
    ]
    assert rank_figure(unranked) != data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set_name": ""}, "set_name"),
        ({"set_name": "a/b"}, "set_name"),
        ({"batch_size": 0}, "batch_size"),
        ({"examples": -1}, "examples"),
        ({"examples": 26}, "examples"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(EvaluationConfig, changes, "evaluate")
