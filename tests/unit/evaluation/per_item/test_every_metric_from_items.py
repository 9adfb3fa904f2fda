"""Each metric of a real evaluation, recomputed from its per-item results: bitwise equal."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tests.unit.evaluation.conftest import IMAGES
from tests.unit.evaluation.metrics.published_sets import write_sets

from clips_pipeline.config import ConfigError
from clips_pipeline.data.scenes.questions import SUBSETS as ASKED
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_model
from clips_pipeline.evaluation.metric_keys import (
    full_key,
    higher_is_better,
    is_fraction,
    item_name,
    set_of,
    short_key,
    split_set,
)
from clips_pipeline.evaluation.metrics.pair_files import SUBSETS
from clips_pipeline.evaluation.per_item.comparison import compare, intervals
from clips_pipeline.evaluation.per_item.item_rows import add_probe_results
from clips_pipeline.evaluation.per_item.item_table import (
    COMPOSITIONALITY_COLUMNS,
    items_by_set,
    read_items,
    tables_by_set,
)
from clips_pipeline.evaluation.per_item.items import compositionality_items, items_from_rows
from clips_pipeline.interop.folder import load_model_folder, save_model
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.registry.versions.gate import GateConfig, ModelResults, decide
from clips_pipeline.reports.figure import label
from clips_pipeline.reports.model.pages import evaluation_html
from clips_pipeline.reports.model.scores import readable_name, score_metrics

RECALLS = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
METRICS = [
    *(f"{kind}/scenes/{name}" for kind in ("retrieval", "retrieval_long") for name in [*RECALLS, "mean_recall@1"]),
    *(f"zero_shot/scenes/{name}" for name in ("accuracy@1", "accuracy@5", "mean_per_class_accuracy@1")),
    *(f"caption/scenes/{name}" for name in ("loss", "bleu4", "rouge_l", "cider")),
    *(f"probe/scenes/{name}_accuracy@1" for name in ("linear", "knn")),
    *(f"compositionality/scenes/{subset}_accuracy" for subset in (*ASKED, "mean")),
    *(f"sugarcrepe/{subset}/accuracy" for subset in (*SUBSETS, "mean")),
    *(f"winoground/all/{name}_score" for name in ("text", "image", "group")),
]
FORCED = "caption/scenes/teacher_forced_loss"


def config(folder: Path) -> EvaluationConfig:
    return EvaluationConfig(
        device="cpu", examples=0, long_captions=True, probe_samples=9, compositionality=write_sets(folder)
    )


def tables(result):
    entries = pd.DataFrame(result.compositionality, columns=list(COMPOSITIONALITY_COLUMNS))
    return tables_by_set(result.set_name, pd.DataFrame(result.per_item), entries)


@pytest.fixture(scope="module")
def evaluated(model_folder, tokenizer_folder, shards, tmp_path_factory):
    """Results of the model and of one with an autoregressive captioner, and their files."""
    folder = tmp_path_factory.mktemp("evaluated")
    settings = config(folder)
    loaded = load_model_folder(model_folder)
    torch.manual_seed(1)
    told = replace(loaded.model.config, captioner=replace(loaded.model.config.captioner, inputs="tokens"))
    coca = save_model(ClipsModel(told), tokenizer_folder, IMAGES.to_mapping(), folder / "coca")
    found = SimpleNamespace(folder=folder, clips=evaluate_model(model_folder, shards, settings))
    found.coca = evaluate_model(coca, shards, settings)
    for name in ("clips", "coca"):
        for set_name, table in tables(getattr(found, name)).items():
            table.to_csv(folder / f"{name}-{set_name}.csv", index=False)
    return found


def test_all_metrics_are_covered(evaluated):
    assert set(evaluated.clips.metrics) == set(METRICS)
    assert FORCED in evaluated.coca.metrics
    found = items_by_set(tables(evaluated.clips))
    assert {full_key(name, set_name) for set_name, items in found.items() for name in items.names()} == set(METRICS)


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_is_bitwise_equal(evaluated, metric):
    result, set_name = evaluated.clips, set_of(metric)
    rows = {"scenes": items_from_rows(result.per_item)} | compositionality_items(result.compositionality)
    in_memory, in_a_file = items_by_set(tables(result)), read_items(evaluated.folder / f"clips-{set_name}.csv")
    for items in (rows[set_name], in_memory[set_name], in_a_file):
        assert items.metric_of(metric).value() == result.metrics[metric]
    # The same holds in the comparison with another model.
    other = read_items(evaluated.folder / f"coca-{set_name}.csv")
    if other.has_metric(metric):
        found = compare(other, in_a_file, [metric], resamples=200)[0]
        assert (found.a, found.b) == (evaluated.coca.metrics[metric], result.metrics[metric])
        assert found.low <= found.high


def test_teacher_forced_loss_is_a_separate_metric(evaluated):
    clips, coca = (read_items(evaluated.folder / f"{name}-scenes.csv") for name in ("clips", "coca"))
    assert coca.metric_of(FORCED).value() == evaluated.coca.metrics[FORCED]
    assert not coca.has_metric("caption/scenes/loss")
    assert not clips.has_metric(FORCED)
    assert not higher_is_better(FORCED)
    found = compare(coca, coca, [FORCED], resamples=50)[0]
    assert (found.difference, found.wins, found.losses) == (0.0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"caption_references": "human"}, "caption/scenes/rouge_l"),
        ({"probe_samples": 8}, "probe/scenes/knn_accuracy@1"),
        ({}, "zero_shot/scenes/mean_per_class_accuracy@1"),
    ],
)
def test_metrics_with_other_settings_are_not_compared(evaluated, model_folder, shards, tmp_path, changes, metric):
    asked_of = tmp_path / "shards"
    shutil.copytree(shards, asked_of)
    if not changes:
        classes = json.loads((asked_of / "classes.json").read_text())
        (asked_of / "classes.json").write_text(json.dumps({**classes, "templates": ["a {}."]}))
    result = evaluate_model(model_folder, asked_of, replace(config(tmp_path), **changes))
    ours, other = items_from_rows(evaluated.clips.per_item), items_from_rows(result.per_item)
    with pytest.raises(ConfigError, match=f"{metric}: the two evaluations used different settings"):
        compare(ours, other, [metric])
    same = "retrieval/scenes/mean_recall@1"
    assert compare(ours, other, [same], resamples=50)[0].difference == 0.0
    # The report leaves out only this metric in the comparison.
    found = {
        one.metric: one for one in score_metrics(result.metrics, {}, {"scenes": other}, {"scenes": ours}, resamples=50)
    }
    assert found[metric].difference is None
    assert found[same].difference is not None
    # The gate does not compare floors of such metrics.
    gate = GateConfig(confidence=None, floors={metric: 1.0})
    better = ModelResults({**result.metrics, same: 1.0}, other)
    decision = decide(same, gate, better, ModelResults(evaluated.clips.metrics, ours))
    assert not decision.promote
    assert f"not comparable: {metric}: the two evaluations used different settings" in decision.reason


def test_every_metric_has_an_interval_in_the_report(evaluated):
    held = intervals(items_by_set(tables(evaluated.clips)), evaluated.clips.metrics, resamples=50)
    assert set(held) == set(METRICS)
    html = evaluation_html(evaluated.clips)
    rows = {metric: html.split(f"<bdi>{metric}</bdi>")[1].split("</tr>")[0] for metric in METRICS}
    assert all(" to " in row for row in rows.values())


def test_every_metric_has_a_name_of_its_own_that_a_figure_shows_whole():
    names = [readable_name(metric) for metric in METRICS]
    assert len(set(names)) == len(names)
    assert [label(name) for name in names] == names


def test_both_sets_of_one_file_are_distinguished(evaluated, tmp_path):
    entries = pd.DataFrame(evaluated.clips.compositionality, columns=list(COMPOSITIONALITY_COLUMNS))
    entries.to_csv(tmp_path / "both.csv", index=False)
    assert read_items(tmp_path / "both.csv", "winoground").names() == tuple(
        f"winoground/all/{name}_score" for name in ("text", "image", "group")
    )
    assert len(read_items(tmp_path / "both.csv", "sugarcrepe").keys) == 5  # images, which the subsets share
    with pytest.raises(ConfigError, match=r"both\.csv: has results on sugarcrepe and winoground; .*--set"):
        read_items(tmp_path / "both.csv")


def test_without_configured_sets_the_table_has_headers_only(evaluated, tmp_path):
    empty = pd.DataFrame([], columns=list(COMPOSITIONALITY_COLUMNS))
    empty.to_csv(tmp_path / "none.csv", index=False)
    read = pd.read_csv(tmp_path / "none.csv", dtype=str, keep_default_na=False)
    per_item = pd.DataFrame(evaluated.clips.per_item)
    assert list(tables_by_set("scenes", per_item, read)) == ["scenes"]
    assert compositionality_items([]) == {}
    with pytest.raises(ConfigError, match=r"none\.csv: has results on no set"):
        read_items(tmp_path / "none.csv")


OLD = """key,image_to_text_rank,text_to_image_ranks,label,zero_shot_rank,caption_nats,caption_tokens,set_version,model
001,0,"[0, 7]",3.0,0.0,6.5,3,v,m
None,,[],,,0.0,0,v,m
002,4,[1],1.0,2.0,2.5,1,v,m
"""


def test_files_of_earlier_releases_are_read(tmp_path):
    (tmp_path / "old.csv").write_text(OLD)
    old = read_items(tmp_path / "old.csv")
    assert old.keys == ("001", "None", "002")
    assert set(old.names()) == {
        *(f"retrieval/{name}" for name in [*RECALLS, "mean_recall@1"]),
        *(f"zero_shot/{name}" for name in ("accuracy@1", "accuracy@5", "mean_per_class_accuracy@1")),
        "caption/loss",
    }
    assert old.metric_of("zero_shot/some/mean_per_class_accuracy@1").value() == 0.5
    assert old.metric_of("caption/some/loss").value() == 9 / 4
    with pytest.raises(ConfigError, match=r"caption/some/bleu4: cannot be computed .* evaluate again"):
        old.metric_of("caption/some/bleu4")


@pytest.mark.parametrize(("value", "name"), [("x", "label"), ("maybe", "teacher_forced"), ("[1", "caption_matches")])
def test_an_invalid_value_is_named(tmp_path, value, name):
    table = pd.DataFrame([{"key": "a", "image_to_text_rank": 0, "text_to_image_ranks": [0], "zero_shot_rank": None}])
    table = table.assign(caption_nats=0.0, caption_tokens=0).assign(**{name: value})
    table.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ConfigError, match=rf"a\.csv: not a table of per-item results: {name} of a is '"):
        read_items(tmp_path / "a.csv")


def test_an_image_without_label_is_not_a_query_of_the_probe():
    rows = [{"key": str(i), "label": label} for i, label in enumerate((2, None, 0))]
    add_probe_results(rows, np.array([True, False]), np.array([True, True]), "terms")
    assert [(row["linear_right"], row["knn_right"]) for row in rows] == [(True, True), (None, None), (False, True)]
    nothing = {"image_to_text_rank": None, "text_to_image_ranks": [], "caption_nats": 0.0, "caption_tokens": 0}
    items = items_from_rows(row | nothing for row in rows)
    assert items.metric_of("probe/s/linear_accuracy@1").value() == 0.5
    assert items.metric_of("probe/s/knn_accuracy@1").value() == 1.0


def test_keys_contain_set_and_kind():
    assert [set_of(m) for m in ("retrieval/a/b", "sugarcrepe/mean/accuracy", "winoground/all/x")] == [
        *("a", "sugarcrepe", "winoground"),
    ]
    for metric in METRICS:
        assert full_key(short_key(metric), set_of(metric)) == metric
    assert split_set(METRICS) == "scenes"
    assert {set_of(metric) for metric in METRICS if item_name(metric) == "pairs"} == {"winoground"}
    with pytest.raises(ConfigError, match="no set"):
        split_set(["winoground/all/text_score"])
    assert [m for m in METRICS if not is_fraction(m)] == ["caption/scenes/loss", "caption/scenes/cider"]
    with pytest.raises(ConfigError, match="set_name: 'winoground' is reserved"):
        EvaluationConfig(set_name="winoground")
