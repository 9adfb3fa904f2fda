"""The table: the numbers of the comparison, and its HTML, Markdown, LaTeX and CSV."""

from dataclasses import replace

import pandas as pd
import pytest
import yaml
from tests import suite_replicas as replicas

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.evaluation.per_item.comparison import compare, compare_all, intervals
from clips_pipeline.evaluation.suite.config import SuiteConfig
from clips_pipeline.evaluation.suite.published_results import PublishedModel, read_published
from clips_pipeline.evaluation.suite.run import SuiteModel, run_suite
from clips_pipeline.evaluation.suite.table import make_table
from clips_pipeline.reports.suite_results import head, latex, markdown, sections, summary, write_suite

PUBLISHED = (
    PublishedModel("Theirs & <b>co_1</b>", "arXiv 1, table 2", {"retrieval/urban1k/image_to_text_recall@1": 0.531}),
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, model_folder, peer):
    folder = tmp_path_factory.mktemp("table")
    sets = {
        "urban1k": {**replicas.urban1k(folder, 20), "origin": "https://host/x", "license": "CC <0>"},
        "winoground": replicas.winoground(folder, 20),
        "sugarcrepe": replicas.sugarcrepe(folder),
        "vtab_x": replicas.clip_benchmark(folder / "vtab", [0, 1, 2, 0, 1, 2], ("cat", "dog", "cow")),
        "dci": {"kind": "dci", "group": "long captions", "path": str(folder / "x|y"), "images": 7805, "captions": 7805},
    }
    models = [SuiteModel.at("ours", model_folder), SuiteModel.at("open_clip's ViT", peer)]
    config = from_mapping(SuiteConfig, {"sets": sets, "device": "cpu"}, "suite")
    return run_suite(config, models, Storage(), folder / "out", None)


@pytest.fixture(scope="module")
def table(outcome):
    return make_table(outcome, PUBLISHED, 300)


def test_one_bootstrap_gives_the_same_numbers_as_interval_and_comparison(outcome):
    for opened in outcome.present:
        first, second = (outcome.load(opened.name, model) for model in outcome.models)
        metrics = list(first.metrics)
        both = compare_all([first.items(), second.items()], metrics, resamples=200)
        differences = compare(first.items(), second.items(), metrics, resamples=200)
        name = metrics[0].split("/")[1] if opened.entries is None else opened.name
        own = intervals({name: first.items()}, metrics, resamples=200)
        assert [one.difference for one in both[0]] == [None] * len(metrics)
        assert [one.difference for one in both[1]] == differences
        assert {metric: (one.low, one.high) for metric, one in zip(metrics, both[0], strict=True)} == own
        assert [one.value for one in both[1]] == [pytest.approx(second.metrics[metric]) for metric in metrics]


def test_rows_of_the_table(table):
    assert {row.metric for row in table.rows if row.headline} == {
        "retrieval/urban1k/image_to_text_recall@1",
        "retrieval/urban1k/text_to_image_recall@1",
        *(f"winoground/all/{name}_score" for name in ("text", "image", "group")),
        "sugarcrepe/mean/accuracy",
        "zero_shot/vtab_x/accuracy@1",
    }
    assert [one.name for one in table.absent] == ["dci"]
    assert table.absent[0].size == "7,805 images, 7,805 captions"
    assert [row.published for row in table.rows if row.metric.endswith("k/image_to_text_recall@1")] == [(0.531,)]
    verdicts = table.verdicts(1)
    assert sum(verdicts.values()) == 7
    assert f"better on {verdicts['better']}" in summary(table)[0]


def test_frame_has_every_number(table):
    frame = table.frame()
    published = frame[frame.published]
    assert published[["model", "value"]].values.tolist() == [["Theirs & <b>co_1</b>", 0.531]]
    assert published[["low", "high", "difference"]].isna().all(axis=None)
    measured = frame[~frame.published]
    assert (measured.low <= measured.value + 1e-9).all()
    assert measured[measured.model == "ours"].difference.isna().all()
    assert set(measured[measured.model != "ours"].verdict) <= {"better", "worse", "even"}


def test_all_forms_are_written(table, tmp_path):
    folder = write_suite(table, tmp_path / "suite")
    assert sorted(path.name for path in folder.iterdir()) == ["suite.csv", "suite.html", "suite.md", "suite.tex"]
    assert len(pd.read_csv(folder / "suite.csv")) == len(table.frame())
    page = (folder / "suite.html").read_text()
    assert "Theirs &amp; &lt;b&gt;co_1&lt;/b&gt; †" in page
    assert "CC &lt;0&gt;" in page
    assert "<script" not in page
    assert "not measured here" in page
    text = markdown(table)
    assert r"Theirs & \<b\>co\_1\</b\> †" in text
    assert r"x\|y does not exist" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| urban1k, image to text R@1")]
    assert row.endswith(" 53.1 |")
    assert row.count("[") == 3
    tex = latex(table)
    assert r"Theirs \& <b>co\_1</b> $^\dagger$" in tex
    columns = len(head(table, table.published))
    body = [line for line in tex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count(" & ") for line in body} == {columns - 1}
    assert r"\emph{long captions}" in tex
    # Every section has a cell per column; a group without published values has no column of them.
    found = sections(table, all_metrics=True)
    assert {section.title: len(section.head) for section in found} == {
        "long captions": columns,
        "compositionality": columns - 1,
        "VTAB": columns - 1,
    }
    assert all(len(cells) == len(section.head) for section in found for cells in section.rows)


def test_one_model_has_no_differences(outcome):
    table = make_table(replace(outcome, models=outcome.models[:1]), (), 100)
    assert head(table, table.published) == ("set, metric", "chance", "ours")
    assert summary(table) == []
    assert "▲" not in markdown(table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("results: [{name: A, source: B, values: {retrieval/coco/x: 53.1}}]", "53.1 must be at most 1"),
        ("results: [{name: A, source: B, values: {retrieval/laion/x: 0.5}}]", "retrieval/laion/x is of no set"),
        ("results: [{name: A, values: {}}]", "source: missing"),
        ("results: [", "not YAML"),
        ("- 1", "expected a mapping"),
        ("", "expected a mapping"),
        (None, "no such file"),
    ],
)
def test_files_of_published_results(tmp_path, content, message):
    path = tmp_path / "published.yml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_published(str(path), ("coco",))
    assert str(caught.value).startswith("suite.published: ")


def test_the_files_of_the_environment_are_valid(repository):
    base = yaml.safe_load((repository / "conf/base/parameters_suite.yml").read_text())["suite"]
    suite = yaml.safe_load((repository / "conf/suite/parameters.yml").read_text())["suite"]
    config = from_mapping(SuiteConfig, {**base, **suite}, "suite")
    assert len(read_published(str(repository / "conf/suite/published.yml"), tuple(config.sets))) >= 5
    assert all(one.path and one.origin and one.license for one in config.sets.values())
    assert all(one.images or one.entries for one in config.sets.values())
    assert sum(one.group == "VTAB" for one in config.sets.values()) == 19
