"""Editing of `dvc.yaml` as text: generated stages are replaced, handwritten lines stay."""

import pytest
import yaml

from kedro_dvc_sync.errors import StageError
from kedro_dvc_sync.stage_file import difference, merge_stages
from kedro_dvc_sync.stages import Stage

TRAIN = Stage(
    "train",
    "kedro run --pipelines train",
    deps=("src/a.py", "data/raw.csv"),
    params={"conf/base/parameters.yml": ["train", "common"]},
    outs={"data/model": {"persist": True}},
    metrics={"data/m.json": {"cache": False}},
)
REPORT = Stage("report", "kedro run --pipelines report", deps=("data/model",), outs={"report.html": {}})
BY_HAND = """\
# Why this file is as it is.
vars: [{x: 1}]

stages:
  # About training.
  train:
    desc: slow
    cmd: kedro run --pipelines train
    deps:
      - src/old.py
    frozen: true  # until Monday
    meta: {owner: me}

  # Mine.
  download:
    cmd: curl -O http://127.0.0.1/x
    outs: [x]
  gone:
    cmd: kedro run --pipelines gone
    outs:
      - y
    # A last remark.

# Plots of mine.
plots:
  - loss: {x: step, y: {data/h.csv: [a, "b"]}}
"""


def test_a_new_file() -> None:
    text = merge_stages(None, [TRAIN, REPORT], None)
    assert text.startswith("# Stages written by `kedro dvc sync`")
    assert yaml.safe_load(text) == {
        "stages": {
            "train": {
                "cmd": "kedro run --pipelines train",
                "deps": ["data/raw.csv", "src/a.py"],
                "params": [{"conf/base/parameters.yml": ["common", "train"]}],
                "outs": [{"data/model": {"persist": True}}],
                "metrics": [{"data/m.json": {"cache": False}}],
            },
            "report": {"cmd": "kedro run --pipelines report", "deps": ["data/model"], "outs": ["report.html"]},
        }
    }


def test_handwritten_lines_stay_unchanged() -> None:
    text = merge_stages(BY_HAND, [TRAIN, REPORT], None)
    for kept in (
        "# Why this file is as it is.\nvars: [{x: 1}]\n\nstages:\n  # About training.\n",
        "    frozen: true  # until Monday\n    meta: {owner: me}\n\n  # Mine.\n  download:\n",
        "    outs: [x]\n",
        '    # A last remark.\n\n# Plots of mine.\nplots:\n  - loss: {x: step, y: {data/h.csv: [a, "b"]}}\n',
    ):
        assert kept in text
    stages = yaml.safe_load(text)["stages"]
    assert list(stages) == ["train", "download", "report"]
    assert stages["train"] == {"desc": "slow", "frozen": True, "meta": {"owner": "me"}, **TRAIN.written()}
    assert list(stages["train"])[:4] == ["desc", "cmd", "deps", "params"]


@pytest.mark.parametrize("text", [None, "", "# Nothing yet.\n", "stages:\n", "plots: []\nstages: {}\n", BY_HAND])
def test_merging_twice_changes_nothing(text: str | None) -> None:
    once = merge_stages(text, [TRAIN, REPORT], None)
    assert merge_stages(once, [TRAIN, REPORT], None) == once
    assert difference(once, once) == ""
    assert yaml.safe_load(once)["stages"]["train"]["cmd"] == TRAIN.cmd


def test_keys_that_are_no_longer_generated_are_removed() -> None:
    before = merge_stages(None, [TRAIN], None)
    after = yaml.safe_load(merge_stages(before, [Stage("train", TRAIN.cmd, outs={"z": {}})], None))
    assert after["stages"]["train"] == {"cmd": TRAIN.cmd, "outs": ["z"]}


def test_flow_style_is_supported() -> None:
    text = merge_stages("stages: {train: {cmd: old, frozen: true}}\n", [TRAIN], None)
    assert yaml.safe_load(text)["stages"]["train"] == {**TRAIN.written(), "frozen": True}


def test_order_and_style_make_no_difference() -> None:
    text = merge_stages(None, [REPORT], None)
    other = "stages: {report: {outs: [report.html], deps: [data/model], cmd: kedro run --pipelines report}}\n"
    assert difference(other, text) == ""


def test_the_difference_is_a_unified_diff() -> None:
    shown = difference(BY_HAND, merge_stages(BY_HAND, [TRAIN, REPORT], None))
    assert "-      - src/old.py" in shown
    assert "+      - src/a.py" in shown
    assert "--- dvc.yaml (current)" in shown
    assert "# Mine" not in [line[1:] for line in shown.splitlines() if line[:1] in "+-"]


@pytest.mark.parametrize("text", ["stages: [1]\n", "- a\n", "stages: {a\n"])
def test_invalid_dvc_files_are_refused(text: str) -> None:
    with pytest.raises(StageError, match=r"^dvc\.yaml: not "):
        merge_stages(text, [TRAIN], None)
