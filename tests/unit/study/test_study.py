"""Plan, costs and tables of a study, with numbers that can be computed by hand."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.models.flops import training_flops
from clips_pipeline.study import figures, plan, run, summary, table
from clips_pipeline.study.config import StudyConfig, StudyMethod
from clips_pipeline.study.plan import with_samples
from clips_pipeline.study.run import RunResult
from clips_pipeline.text.captions import Caption
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.cost import CaptionSample, flops_per_sample
from clips_pipeline.training.resolve import model_config
from clips_pipeline.training.run_spec import RunSpec

TRAIN = TrainConfig(samples=6400, batch_size=64)
METRIC = "retrieval/scenes/mean_recall@1"


def plan_cases(**changes):
    config = StudyConfig(**{"samples": 3200, "curve_samples": None, **changes})
    # A sample of `clip` costs half as much as one of any other method.
    return plan.cases(config, TRAIN, lambda which: (12.0, 60.0)[which], lambda c: 1.0 if c.method == "clip" else 2.0)


def test_method_rows_differ_only_in_the_method():
    cases = plan_cases(comparisons=("methods",))
    assert [case.label for case in cases] == list(get_args(StudyMethod))
    base = with_samples(TRAIN, 3200)
    for case in cases:
        changed = {
            "clips sigmoid": replace(base, loss=replace(base.loss, contrastive="sigmoid")),
            "clips 2 positives": replace(base, captions=replace(base.captions, positives=2)),
            "captioning": replace(base, method="captioning", model=replace(base.model, image_tokens_kept=0.35)),
        }
        expected = changed[case.label] if case.label in changed else replace(base, method=case.label)
        assert case.train == expected, case.label


def test_what_a_method_does_not_have_is_not_set_for_it():
    train = replace(
        TRAIN,
        captions=replace(TRAIN.captions, positives=3),
        model=replace(TRAIN.model, image_tokens_kept=0.5, text_weights="towers.pt"),
        loss=replace(TRAIN.loss, contrastive="sigmoid"),
    )
    for name in get_args(StudyMethod):
        changed = plan.with_method(train, name)
        assert changed.captions.positives == {"clips": 3, "clips sigmoid": 3, "clips 2 positives": 2}.get(name, 1)
        assert changed.loss.contrastive == ("softmax" if name == "captioning" else "sigmoid")


def test_equal_compute_gives_cheap_methods_more_samples():
    cases = {case.label: case for case in plan_cases(comparisons=("methods_at_equal_compute",))}
    assert cases["clip"].train.samples == 6400
    assert cases["clips"].train.samples == cases["coca"].train.samples == 3200


def test_curves_and_ablations_use_curve_samples():
    found = {
        (case.comparison, case.train.samples) for case in plan_cases(curve_samples=1600, methods=("coca", "clips"))
    }
    assert found == {
        ("methods", 3200),
        ("methods_at_equal_compute", 3200),
        ("fragment_lengths", 1600),
        ("web_lengths", 1600),
        ("ablations", 1600),
    }


def test_fragment_budgets_are_fractions_of_the_mean_caption():
    cases = plan_cases(
        comparisons=("fragment_lengths",), strategies=("truncation", "sub_caption"), length_fractions=(0.5, 0.25)
    )
    found = [(case.label, case.fraction, case.train.captions.fragment.tokens) for case in cases]
    assert found == [
        (plan.WHOLE_CAPTION, 1.0, None),
        ("truncation", 0.5, 30),
        ("truncation", 0.25, 15),
        ("sub_caption", 0.5, 30),
        ("sub_caption", 0.25, 15),
    ]


def test_web_budgets_do_not_change_the_fragment():
    cases = plan_cases(comparisons=("web_lengths",), length_fractions=(0.25,))
    assert [case.train.captions.web_tokens for case in cases] == [None, 3]
    assert len({case.train.captions.fragment for case in cases}) == 1


def test_ablations_contain_the_configured_training_once():
    cases = plan_cases(comparisons=("ablations",))
    assert len({case.train for case in cases}) == len(cases)
    labels = [case.label for case in cases]
    assert labels[0] == "as configured"
    assert labels[-2:] == ["optimizer muon", "optimizer lamb"]
    assert len(plan_cases(comparisons=("ablations",), optimizers=("adamw",))) == len(cases) - 2
    assert "caption weight 2" not in labels
    assert {"padding attend", "padding mask"} & set(labels) == {
        f"padding {other}" for other in {"attend", "mask"} - {TRAIN.model.padding}
    }


def test_each_captioner_alone_is_compared_with_all():
    train = replace(TRAIN, captions=replace(TRAIN.captions, captioners=("a",), target_captioner="a"))
    config = StudyConfig(comparisons=("captioners",), samples=3200)
    rows = plan.cases(config, train, lambda which: 10.0, lambda changed: 1.0, ("blip", "llava"))
    assert [(case.label, case.train.captions.captioners, case.baseline) for case in rows] == [
        ("all captioners", None, "all captioners"),
        ("blip alone", ("blip",), "all captioners"),
        ("llava alone", ("llava",), "all captioners"),
    ]
    assert {case.train.captions.target_captioner for case in rows} == {None}
    with pytest.raises(
        ConfigError,
        match="at least two captioners with names, and these shards have llava; see docs/reference/captions",
    ):
        plan.cases(config, train, lambda which: 10.0, lambda changed: 1.0, ("llava",))


@pytest.fixture
def begun(monkeypatch):
    """Jobs that a study begins; none is run."""
    found = []

    def run_jobs(jobs, _parallel_runs, _hours, _options, **_):
        found.extend(json.loads(job.read_text()) for job in jobs)
        return ["stopped here"]

    monkeypatch.setattr(run, "run_jobs", run_jobs)
    return found


def test_every_training_has_its_own_run_folder(tmp_path, begun):
    """Otherwise two trainings that differ only in samples would resume each other in an interrupted study."""
    cases = plan_cases(comparisons=("methods", "methods_at_equal_compute"), methods=("clip", "clips"))
    with pytest.raises(run.StudyError, match="1 of 6 trainings"):
        run.run_all(
            cases,
            (0, 1),
            None,
            None,
            lambda train: RunSpec(train, "s", "t", "", "", "version"),
            EvaluationConfig(),
            tmp_path,
        )
    specs = [from_mapping(RunSpec, job["spec"], "spec") for job in begun]
    assert [Path(spec.run_folder) for spec in specs] == [tmp_path / "runs" / spec.fingerprint for spec in specs]
    # clip at twice the length, clip and clips, each with two seeds.
    assert len({spec.run_folder for spec in specs}) == len({spec.model_folder for spec in specs}) == 6


def test_a_second_generation_trains_on_other_shards_and_is_evaluated_on_the_usual_ones(tmp_path, begun):
    recaptioned = tmp_path / "recaptioned"
    prepare(ScenesSource(ScenesConfig(train=2, validation=1, test=1, image_size=32)), recaptioned)
    cases = plan_cases(comparisons=("second_generation",), recaptioned=str(recaptioned))
    assert [case.label for case in cases] == ["original captions", "captions of a model"]
    assert cases[0].train == cases[1].train
    with pytest.raises(run.StudyError, match="1 of 2 trainings"):
        run.run_all(
            cases, (0,), None, None, lambda t: RunSpec(t, "s", "t", "", "", "version"), EvaluationConfig(), tmp_path
        )
    assert [job["spec"]["shards"] for job in begun] == ["s", str(recaptioned)]
    assert begun[1]["spec"]["data_version"] == load_index(recaptioned).version
    assert [job["shards"] for job in begun] == ["s", "s"]


def test_after_its_hours_a_study_reports_finished_runs(tmp_path):
    cases = plan_cases(comparisons=("methods",), methods=("clip", "clips"))

    def run_all(hours):
        spec_of = partial(RunSpec, shards="s", tokenizer="t", run_folder="", model_folder="", data_version="version")
        return run.run_all(cases, (0, 1), 1, hours, spec_of, EvaluationConfig(), tmp_path)

    with pytest.raises(run.StudyError, match=r"study.hours: 0 was too short for any of the 4 trainings; raise it"):
        run_all(0.0)
    first, *_, last = sorted((tmp_path / "jobs").glob("*.json"))
    for job, value in ((first, 0.25), (last, 0.5)):
        result = {"metrics": {METRIC: value}, "samples_per_s": 100.0}
        Path(json.loads(job.read_text())["result"]).write_text(json.dumps(result))
    found, there, wanted = run_all(0.0)
    assert (there, wanted) == (2, 4)
    assert sorted(one.metrics[METRIC] for one in found) == [0.25, 0.5]
    assert not (tmp_path / "runs").exists()


def test_a_row_without_its_baseline_has_no_change():
    runs = table.runs_table([result("clip", 0, 0.1), result("coca", 1, 0.1), result("clips", 1, 0.3)], [1e9] * 3)
    lines = table.aggregate_seeds(runs, METRIC)
    assert lines.set_index("label")["change"].to_dict() == pytest.approx(
        {"clip": math.nan, "coca": -0.2, "clips": math.nan}, nan_ok=True
    )
    text = summary.markdown(lines, runs, METRIC, {})
    rows = {
        line.split("|")[1].strip(): line.split("|")[-3].strip() for line in text.splitlines() if line.startswith("| c")
    }
    assert rows == {"clip": "not yet", "coca": "-20.00", "clips": "baseline"}
    heights = [patch.get_height() for patch in figures.method_bars(lines, runs, METRIC).axes[0].patches]
    assert heights == pytest.approx([10.0, 10.0, 30.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "seeds: empty"),
        ({"seeds": (1, 1)}, "contains duplicates"),
        ({"length_fractions": (1.0,)}, r"length_fractions\[0\]: 1.0 must be below 1"),
        ({"samples": 0}, "at least 1"),
        ({"curve_samples": 0}, "at least 1"),
        ({"parallel_runs": 0}, "at least 1"),
        ({"hours": -1.0}, "at least 0"),
        ({"hours": math.nan}, "not a finite number"),
        ({"methods": ("clip",)}, "clips is the baseline"),
        ({"comparisons": ("second_generation",)}, "recaptioned: missing"),
    ],
)
def test_invalid_studies_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(StudyConfig, changes, "study")


class WordTokenizer:
    """A tokenizer of words, with three special ids per row."""

    vocab_size = 200

    def body(self, text):
        return [100 + len(word) for word in text.split()]

    def encoder_row(self, body, length):
        used = [1, *body[: length - 3], 2]
        return used + [0] * (length - len(used) - 1) + [101]

    def target_row(self, body, length):
        used = [1, *body[: length - 2], 2]
        return used + [0] * (length - len(used))


def test_flops_are_averaged_over_samples_with_their_lengths():
    pairs = ((("a b c",), (Caption("one two three four"),), "0"), (("a",), (Caption("one two"),), "1"))
    config = replace(
        TRAIN,
        model=replace(TRAIN.model, padding="mask"),
        captions=replace(TRAIN.captions, fragment=replace(TRAIN.captions.fragment, strategy="truncation", tokens=1)),
    )
    model = model_config(config, 200)
    by_hand = (training_flops(model, 6, 4, 5) + training_flops(model, 4, 4, 3)) / 2
    assert flops_per_sample(config, CaptionSample(pairs), WordTokenizer()) == by_hand
    assert CaptionSample(pairs).mean_ids(WordTokenizer(), 1) == 3.0
    shorter = replace(config, captions=replace(config.captions, web_tokens=1))
    assert flops_per_sample(shorter, CaptionSample(pairs), WordTokenizer()) < by_hand
    attended = replace(config, model=replace(config.model, padding="attend"))
    assert flops_per_sample(attended, CaptionSample(pairs), WordTokenizer()) > by_hand


def result(label, seed, value, fraction=None, comparison="methods", baseline="clips"):
    return RunResult(
        plan.Case(comparison, label, TRAIN, baseline, fraction), seed, {METRIC: value}, 100.0, Path("model")
    )


def three_seeds():
    found = []
    for seed, (clip, clips) in enumerate([(0.10, 0.12), (0.11, 0.15), (0.12, 0.15)]):
        found += [result("clip", seed, clip), result("clips", seed, clips)]
    return found


def test_changes_are_paired_by_seed():
    runs = table.runs_table(three_seeds(), [1e9] * 6)
    lines = table.aggregate_seeds(runs, METRIC).set_index("label")
    assert lines.loc["clip", "mean"] == pytest.approx(0.11)
    assert lines.loc["clip", "change"] == pytest.approx(-0.03)
    # Differences -0.02, -0.04, -0.03: deviation 0.01, t of two degrees of freedom 4.303.
    assert lines.loc["clip", "change_half_width"] == pytest.approx(4.30265 * 0.01 / math.sqrt(3))
    assert math.isnan(lines.loc["clips", "change"])


def test_one_seed_has_no_interval():
    assert table.ci_half_width([0.5]) == math.inf
    runs = table.runs_table([result("clip", 0, 0.1), result("clips", 0, 0.2)], [1e9] * 2)
    text = summary.markdown(table.aggregate_seeds(runs, METRIC), runs, METRIC, {"data": "abc"})
    assert "| 1 | 20.00 | baseline |  |" in text
    assert "| 1 | 10.00 | -10.00 |  |" in text


def test_the_summary_marks_clear_changes():
    runs = three_seeds() + [result("coca", seed, value) for seed, value in enumerate([0.13, 0.14, 0.16])]
    runs = table.runs_table(runs, [1e9] * 9)
    text = summary.markdown(table.aggregate_seeds(runs, METRIC), runs, METRIC, {})
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| c")}
    assert rows["clip"].rstrip(" |").endswith("| clear")
    assert rows["coca"].rstrip(" |").endswith("not clear")
    assert "baseline" in rows["clips"]


def test_methods_have_a_second_table_of_metrics():
    others = {
        "retrieval/scenes/image_to_text_recall@1": 0.25,
        "retrieval/scenes/text_to_image_recall@10": 0.5,
        "zero_shot/scenes/accuracy@1": 0.125,
        "zero_shot/scenes/accuracy@5": 0.75,
    }
    runs = [replace(run, metrics={**run.metrics, **others}) for run in three_seeds()]
    runs = table.runs_table(runs, [1e9] * 6)
    rows = summary.markdown(table.aggregate_seeds(runs, METRIC), runs, METRIC, {}).splitlines()
    (at,) = [number for number, row in enumerate(rows) if row.startswith("| %")]
    heads = ["image to text recall@1", "text to image recall@10", "zero-shot accuracy@1"]
    assert [cell.strip() for cell in rows[at].split("|")[2:-1]] == heads
    assert rows[at + 2] == "| clip | 25.0 ± 0.0 | 50.0 ± 0.0 | 12.5 ± 0.0 |"


def test_curves_have_the_second_table_and_a_panel_of_zero_shot_accuracy():
    zero_shot = "zero_shot/scenes/accuracy@1"
    curves = [result(plan.WHOLE_CAPTION, 0, 0.2, 1.0, "fragment_lengths", plan.WHOLE_CAPTION)]
    curves += [
        result("truncation", 0, 0.1, fraction, "fragment_lengths", plan.WHOLE_CAPTION) for fraction in (0.5, 0.25)
    ]
    curves = [
        replace(run, metrics={**run.metrics, zero_shot: accuracy})
        for run, accuracy in zip(curves, (0.5, 0.75, 0.875), strict=True)
    ]
    runs = table.runs_table(curves, [1e9] * 3)
    lines = table.aggregate_seeds(runs, METRIC)
    rows = summary.markdown(lines, runs, METRIC, {}).splitlines()
    assert {"| truncation 0.5 | 75.0 |", "| truncation 0.25 | 87.5 |"} <= set(rows)
    recall, second = figures.length_curves(lines, runs, METRIC).axes
    drawn = [list(axes.get_lines()[1].get_ydata()) for axes in (recall, second)]
    assert drawn[0] == pytest.approx([0.0, -10.0, -10.0])
    assert drawn[1] == pytest.approx([0.0, 25.0, 37.5])
    assert second.get_ylabel().startswith("change of zero-shot accuracy")


def test_figures_show_every_curve_and_bar():
    curves = [result(plan.WHOLE_CAPTION, 0, 0.2, 1.0, "fragment_lengths", plan.WHOLE_CAPTION)]
    curves += [
        result("truncation", 0, value, fraction, "fragment_lengths", plan.WHOLE_CAPTION)
        for fraction, value in ((0.5, 0.25), (0.25, 0.3))
    ]
    curves += [result(plan.WHOLE_CAPTION, 0, 0.2, 1.0, "web_lengths", plan.WHOLE_CAPTION)]
    curves += [result("web caption", 0, 0.1, 0.5, "web_lengths", plan.WHOLE_CAPTION)]
    runs = table.runs_table(curves + three_seeds(), [1e9] * (len(curves) + 6))
    lines = table.aggregate_seeds(runs, METRIC)
    (axes,) = figures.length_curves(lines, runs, METRIC).axes
    drawn = {line.get_label(): line.get_ydata() for line in axes.get_lines() if not line.get_label().startswith("_")}
    assert list(drawn["fragment, truncation"]) == pytest.approx([0.0, 5.0, 10.0])
    assert list(drawn["web caption, truncated"]) == pytest.approx([0.0, -10.0])
    (axes,) = figures.method_bars(lines, runs, METRIC).axes
    assert [patch.get_height() for patch in axes.patches] == pytest.approx([11.0, 14.0])
    (dots,) = [line for line in axes.get_lines() if line.get_marker() == "."]
    assert sorted(dots.get_ydata()) == pytest.approx(sorted(100 * run.metrics[METRIC] for run in three_seeds()))
    assert isinstance(runs, pd.DataFrame)
