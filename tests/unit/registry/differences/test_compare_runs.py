"""How two runs differ: from run folders, from MLflow, and in words."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from rich.console import Console

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.registry.differences.compare_runs import apart_from, compare_runs, history_lines, parting_step
from clips_pipeline.registry.differences.from_folder import find_run_folder, read_folder, unknown_run
from clips_pipeline.registry.differences.from_mlflow import read_mlflow
from clips_pipeline.registry.differences.run_facts import RunFacts
from clips_pipeline.registry.tracking import run_tracking
from clips_pipeline.registry.tracking.run_tracking import RunTracker
from clips_pipeline.registry.tracking.surroundings import log_surroundings
from clips_pipeline.reports.model.run_comparison import run_comparison_html, show_run_comparison
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.events.surroundings import surroundings
from clips_pipeline.training.resume.run_folder import code_digest, code_files, keep_code_files
from clips_pipeline.training.run_spec import RunSpec

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


def run_folder(folder: Path, losses: list[float], *, around: dict | None = None, **train: object) -> Path:
    """Write a run folder as a training does: spec, digests of the code, and event log."""
    folder.mkdir(parents=True)
    config = from_mapping(TrainConfig, train, "train")
    spec = RunSpec(config, "shards", "tokenizer", str(folder), "model", "data-1", "tokenizer-1")
    spec.save(folder / "run_spec.json")
    files = code_files()
    keep_code_files(folder, files)
    facts = {"steps": len(losses), "batch_size": config.batch_size, "resumed_from": None, "code": code_digest(files)}
    with EventWriter(spec.events) as writer:
        writer.write("start", **facts, **{**surroundings("cpu", 1, 1, 1, 0), **(around or {})})
        for step, loss in enumerate(losses, 1):
            others = {
                "logit_scale": 14.0,
                "learning_rate": 1e-3,
                "samples_per_s": 10.0 * step,
                "data_wait_fraction": 0.0,
            }
            writer.write("step", step=step, samples=step, losses={"total": loss, "contrastive": loss / 2}, **others)
        metrics = {"mean_recall@1": losses[-1] / 100}
        writer.write("evaluation", step=len(losses), samples=len(losses), metrics=metrics)
        writer.write("end", step=len(losses), finished=True, skipped={})
    return folder


def sections(a: RunFacts, b: RunFacts) -> dict[str, list[str]]:
    """Return what differs, by section."""
    return {one.title.partition(",")[0]: [row.name for row in one.differences] for one in compare_runs(a, b).sections}


def test_equal_runs_are_said_to_be_equal(tmp_path):
    a, b = (read_folder(name, run_folder(tmp_path / name, [3.0, 2.0], seed=4)) for name in "ab")
    found = compare_runs(a, b)
    assert found.verdict == [
        "Nothing that is recorded and could change the result differs.",
        "The same: parameters, data, code, versions, hardware.",
        "The curves are equal at all 2 common steps.",
    ]
    assert not any(section.differences for section in found.sections if section.title != "speed")
    assert compare_runs(a, a).verdict[0] == "A and B are the same run."


def test_what_matters_comes_first_with_the_step_where_curves_part(tmp_path):
    a = read_folder("a", run_folder(tmp_path / "a", [3.0, 2.0, 1.0], batch_size=8))
    b = run_folder(tmp_path / "b", [3.0, 2.0001, 1.5], batch_size=16, seed=5, launch={"threads": 3}, every={"log": 7})
    found = compare_runs(a, read_folder("b", b))
    assert found.verdict[0] == "The two differ in: batch size (8, 16), seed (0, 5)."
    assert "Differences that change only the rounding: threads." in found.verdict
    assert found.verdict[-1].startswith("The curves part at step 2: loss/total is 2 and 2.0001.")
    rows = found.sections[0].differences
    assert [(row.name, row.note) for row in rows] == [
        ("train.batch_size", "default 64"),
        ("train.seed", "default 0"),
        ("train.launch.threads", "default null; changes only the rounding of sums"),
        ("train.every.log", "default 10; does not change what is trained"),
    ]
    (total, *_) = found.sections[5].differences
    assert (total.name, total.note) == ("loss/total", "from step 2, by more than 1 % from 3")


def test_data_code_versions_and_hardware_are_named(tmp_path):
    a = read_folder("a", run_folder(tmp_path / "a", [1.0]))
    b = replace(
        a,
        place="b",
        data={**a.data, "tokenizer": "other"},
        code={**a.code, "source of the package": "1234"},
        code_files={**a.code_files, "models/clips.py": "5678"},
        versions={**a.versions, "torch": "9.9"},
        hardware={**a.hardware, "ranks": "2", "host": "elsewhere"},
    )
    assert sections(a, b) == {
        "parameters": [],
        "data": ["tokenizer"],
        "code": ["source of the package", "models/clips.py"],
        "versions": ["torch"],
        "hardware": ["ranks", "host"],
        "last values of curves": [],
        "speed": ["samples per second, median"],
    }
    assert compare_runs(a, b).verdict[0] == "The two differ in: data, code, versions, hardware."
    # Another host alone explains nothing, nor does another commit with the same source.
    moved = replace(a, place="b", hardware={**a.hardware, "host": "elsewhere"}, code={**a.code, "commit": "f" * 40})
    assert compare_runs(a, moved).verdict[1] == "The same: parameters, data, code, versions, hardware."


def test_what_is_not_recorded_is_said_and_unexplained_curves_too(tmp_path):
    a = read_folder("a", run_folder(tmp_path / "a", [1.0, 2.0]))
    old = replace(a, place="b", code={}, versions={}, hardware={}, history=(), curves={"loss/total": {1: 1.0, 2: 2.5}})
    verdict = compare_runs(a, old).verdict
    assert "Not recorded: code (for B), versions (for B), hardware (for B)." in verdict
    assert verdict[-1].startswith("Nothing that is recorded explains it")
    assert compare_runs(a, old).histories[1] == []


def test_a_group_in_place_of_null_is_one_difference(tmp_path):
    a = read_folder("a", run_folder(tmp_path / "a", [1.0]))
    b = read_folder("b", run_folder(tmp_path / "b", [1.0], ema={"half_life_batches": 5}))
    (row,) = compare_runs(a, b).sections[0].differences
    assert (row.name, row.a, row.b) == ("train.ema.half_life_batches", "–", "5")


def test_parting_of_curves():
    assert parting_step({1: 1.0, 2: 2.0}, {1: 1.0, 3: 2.0}) is None
    assert parting_step({2: 2.0, 1: 1.0, 3: 5.0}, {1: 1.0, 2: 2.5, 3: 5.0}) == 2
    assert apart_from({1: 1.0, 2: 2.0, 3: 3.0}, {1: 2.0, 2: 2.0, 3: 4.0}) == 3
    assert apart_from({1: 1.0}, {1: 1.001}) is None


def test_history_names_starts_changes_and_stops():
    hardware = {"ranks": 2, "device": "gpu", "host": "node"}
    events = [
        {"kind": "start", "time": 0, "steps": 9, "batch_size": 8, "resumed_from": None, "hardware": hardware},
        {"kind": "interrupted", "time": 1, "step": 4, "reason": "SIGTERM"},
        {"kind": "start", "time": 2, "steps": 9, "batch_size": 8, "resumed_from": "/runs/x/checkpoints/ba4"},
        {"kind": "changed", "time": 2, "step": 4, "values": {"code": ["aa", "bb"]}},
        {"kind": "end", "time": 3, "step": 9, "finished": True},
    ]
    assert [line.partition("  ")[2] for line in history_lines(events)] == [
        "started: 2 ranks on gpu, node; 9 steps of 8",
        "interrupted: step 4, reason SIGTERM",
        "resumed from ba4: where is not recorded; 9 steps of 8",
        "changed from step 4: code is bb, was aa",
        "finished at step 9",
    ]


def test_mlflow_and_the_run_folder_say_the_same(store, tmp_path):
    folder = run_folder(tmp_path / "a", [3.0, 2.0], seed=4)
    with mlflow.start_run() as run:
        mlflow.log_params({"train.seed": 4, "prepare.source.kind": "scenes"})
        with RunTracker(folder) as tracker:
            for event in tracker.reader(folder / "events.jsonl").read():
                tracker.record(event)
    here, there = read_folder("a", folder), read_mlflow(f"runs:/{run.info.run_id}")
    assert there.curves == here.curves
    assert there.code_files == here.code_files != {}
    for name in ("data", "versions", "hardware", "history"):
        assert getattr(there, name) == getattr(here, name) != {}
    assert compare_runs(here, there).verdict[-2:] == [
        "The same: parameters, data, code, versions, hardware.",
        "The curves are equal at all 2 common steps.",
    ]
    tags = MlflowClient().get_run(run.info.run_id).data.tags
    assert tags["training.code"] == code_digest()
    assert {"training.python", "training.torch", "training.ranks"} <= tags.keys()


def test_a_history_that_could_not_be_sent_is_sent_again(store, tmp_path, monkeypatch):
    folder, tries = run_folder(tmp_path / "a", [3.0]), []

    def fail_once(*arguments):
        tries.append(arguments)
        if len(tries) == 1:
            raise MlflowException("away")
        log_surroundings(*arguments)

    monkeypatch.setattr(run_tracking, "log_surroundings", fail_once)
    with mlflow.start_run() as run, RunTracker(folder) as tracker:
        for event in tracker.reader(folder / "events.jsonl").read():
            tracker.record(event)
    assert len(tries) == 2
    assert read_mlflow(f"runs:/{run.info.run_id}").history == read_folder("a", folder).history


def test_runs_of_earlier_versions_are_compared_by_parameters_and_tags(store, tmp_path):
    folder = run_folder(tmp_path / "a", [3.0], seed=4, optimizer={"peak_lr": 3.0e-4}, augment={"crop_area": [0.5, 1.0]})
    with mlflow.start_run() as run:
        logged = {"seed": 4, "optimizer.peak_lr": 3.0e-4, "augment.crop_area": [0.5, 1.0], "ema": None, "samples": 99}
        mlflow.log_params({f"train.{name}": value for name, value in logged.items()})
        mlflow.set_tags({"git.commit": "c" * 40, "git.dirty": "true"})
    found = compare_runs(read_folder("a", folder), read_mlflow(f"runs:/{run.info.run_id}"))
    assert [row.name for row in found.sections[0].differences] == ["train.samples"]
    assert any(row.a != row.b == "yes" for row in found.sections[2].differences)


@pytest.mark.parametrize("name", ["nowhere", "runs"])
def test_an_unknown_run_gives_one_error_with_those_there(tmp_path, name):
    run_folder(tmp_path / "runs" / "0123", [1.0])
    assert find_run_folder("0123", tmp_path / "runs") == tmp_path / "runs" / "0123"
    assert find_run_folder(name, tmp_path / "runs") is None
    assert re.search(f"{name}: no run; give runs:/ID.*0123", str(unknown_run(name, tmp_path / "runs")))


def test_results_of_evaluations_are_compared(store):
    found = []
    for recall in (0.25, 0.5):
        with mlflow.start_run() as run:
            mlflow.log_metrics(
                {"retrieval/scenes/mean_recall_at_1": recall, "caption/scenes/loss": 2.0, "skipped/x": 3.0}
            )
        found.append(read_mlflow(f"runs:/{run.info.run_id}"))
    section = compare_runs(*found).sections[5]
    assert section.title == "results of evaluations"
    assert [(row.name, row.a, row.b) for row in section.differences] == [
        ("retrieval/scenes/mean_recall@1", "0.25", "0.5")
    ]


def test_an_unknown_run_in_mlflow_gives_one_error(store):
    with pytest.raises(ConfigError, match=r"runs:/0123: .*0123"):
        read_mlflow("runs:/0123")


def test_hostile_values_reach_neither_terminal_nor_page(tmp_path):
    evil = "\x1b]0;owned\x07<script>alert(1)</script>"
    a = read_folder(evil, run_folder(tmp_path / "a", [1.0, 2.0]))
    b = replace(a, place=evil, data={"shards": evil}, hardware={evil: evil}, curves={evil: {1: 2.0}})
    b = replace(b, history=[{"kind": "error", "time": 0, "message": evil}])
    found = compare_runs(a, b)
    stream = io.StringIO()
    show_run_comparison(found, Console(file=stream, force_terminal=True, width=100))
    assert "\x1b]0" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()
    html = run_comparison_html(found)
    assert "<script" not in html
    assert "\x1b" not in html


@pytest.mark.parametrize(
    "event",
    [
        "7",
        '{"step": 3}',
        '{"kind": "start", "time": "noon"}',
        '{"kind": "start", "time": 1, "versions": 3}',
        '{"kind": "start", "time": 1e300}',
        '{"kind": "start", "time": 1, "resumed_from": 3}',
        '{"kind": "start", "time": 1, "versions": {"packages": []}}',
        '{"kind": "step", "step": 1, "time": 2, "losses": [1]}',
        '{"kind": "changed", "time": 1, "step": 1, "values": {"a": 3}}',
    ],
)
def test_events_of_another_form_are_left_out_or_one_error(tmp_path, event):
    folder = run_folder(tmp_path / "a", [1.0])
    whole = read_folder("a", folder)
    with (folder / "events.jsonl").open("a") as file:
        file.write(event + "\n")
    try:
        found = read_folder("a", folder)
    except ConfigError as error:
        assert "events.jsonl: damaged" in str(error)  # noqa: PT017
        return
    assert compare_runs(whole, found).verdict == compare_runs(whole, whole).verdict


def test_a_record_that_is_damaged_or_absent_is_unknown(tmp_path):
    folder = run_folder(tmp_path / "a", [1.0])
    (next((folder / "code").iterdir())).write_text("{")
    (folder / "events.jsonl").write_text(json.dumps({"kind": "start", "time": 1, "steps": 1, "batch_size": 2}) + "\n")
    found = read_folder("a", folder)
    assert (found.code_files, found.versions, found.hardware, found.curves) == ({}, {}, {}, {})
    assert compare_runs(found, found).histories[0][0].endswith("started: where is not recorded; 1 steps of 2")
