"""Parameters in the lock and in their files, and hashes equal to DVC's."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedro_dvc_sync.errors import StageError
from kedro_dvc_sync.lock import (
    changed_leaves,
    file_hash,
    parameters_into_files,
    read_lock,
    resolved_parameters,
    with_parameters,
)
from kedro_dvc_sync.trees import read_yaml, set_value

TEXT = """\
# The head.
train:
  samples: 10          # of pictures
  model: {size: tiny, layers: [1, 2]}   # flow
  every:
    log: 2
    # before the last
    evaluate: 3

  seed: 0
other: text
"""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.samples", 12),
        ("train.samples", {"a": [1, None], "b": "x: y"}),
        ("train.model.size", None),
        ("train.model", 1.0e-8),
        ("train.model.width", True),
        ("train.every", ["a", {"b": "# no comment"}]),
        ("train.every.log", "2"),
        ("train.new.deep", 1),
        ("other", {"a": 1}),
        ("third.part", "ü"),
    ],
)
def test_only_the_value_changes(tmp_path: Path, path: str, value: Any) -> None:
    file = tmp_path / "p.yml"
    file.write_text(TEXT)
    expected = yaml.safe_load(TEXT)
    set_value(expected, path, value)
    key = path.split(".")[0]
    entry = {"params": {"p.yml": {key: expected[key]}}}
    parameters_into_files(tmp_path, {"train": entry})
    text = file.read_text()
    assert read_yaml(file) == expected
    assert "# The head." in text
    if path.startswith("train.samples"):
        assert "# before the last\n    evaluate: 3\n\n  seed: 0\n" in text
    assert parameters_into_files(tmp_path, {"train": entry}) == []


@pytest.mark.parametrize("name", ["../outside.yml", "ABSOLUTE", "link.yml", "p.txt", "folder", "absent.yml"])
def test_parameters_go_to_yaml_files_of_the_project_alone(tmp_path: Path, name: str) -> None:
    root, outside = tmp_path / "project", tmp_path / "outside.yml"
    (root / "folder").mkdir(parents=True)
    for file in (outside, root / "p.yml", root / "p.txt"):
        file.write_text("seed: 0\n")
    (root / "link.yml").symlink_to(outside)
    name = name.replace("ABSOLUTE", str(outside))
    stages = {"good": {"params": {"p.yml": {"seed": 1}}}, "bad": {"params": {name: {"seed": 1}}}}
    with pytest.raises(StageError, match="not a YAML file of"):
        parameters_into_files(root, stages)
    assert outside.read_text() == (root / "p.yml").read_text() == "seed: 0\n"


def test_changed_leaves() -> None:
    old = {"a": {"b": 1, "c": [1]}, "d": {"e": 1, "f": 2}}
    new = {"a": {"b": 1, "c": [2], "n": {"x": 1}}, "d": {"e": 1}}
    assert dict(changed_leaves(old, new)) == {"a.c": [2], "a.n": {"x": 1}, "d": {"e": 1}}


def test_used_values_go_to_the_last_file_and_back(tmp_path: Path) -> None:
    base, overlay = "conf/base/p.yml", "conf/a_first_by_name/p.yml"
    order = [base, overlay]
    content = {base: {"train": {"seed": 0, "lr": {"peak": 1}}, "more": 1}, overlay: {"train": {"seed": 2}}}
    for name, values in content.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(yaml.safe_dump(values))
    entry = {"cmd": "x", "params": {name: {"train": values["train"]} for name, values in content.items()}}
    told = {"params": with_parameters(entry["params"], {"train.seed": 5, "train.lr.peak": 7}, order)}
    assert told["params"] == {
        base: {"train": {"seed": 0, "lr": {"peak": 1}}},
        overlay: {"train": {"seed": 5, "lr": {"peak": 7}}},
    }
    assert entry["params"][overlay] == {"train": {"seed": 2}}
    assert resolved_parameters(told, order) == {"train": {"seed": 5, "lr": {"peak": 7}}}
    assert sorted(parameters_into_files(tmp_path, {"train": told})) == ["train.lr", "train.seed"]
    assert yaml.safe_load((tmp_path / base).read_text()) == content[base]
    assert yaml.safe_load((tmp_path / overlay).read_text()) == told["params"][overlay]
    assert parameters_into_files(tmp_path, {"train": told}) == []


@pytest.mark.parametrize("text", ["stages: [1, 2]", "a: [", "just text", "stages: {train: 3}"])
def test_an_invalid_lock_names_the_file_and_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(StageError, match=r"dvc\.lock.*git checkout"):
        read_lock(tmp_path / "dvc.lock")


def test_a_missing_lock_has_no_stages(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "dvc.lock") == {}
    (tmp_path / "dvc.lock").write_text("")
    assert read_lock(tmp_path / "dvc.lock") == {}


def test_hashes_equal_dvcs(tmp_path: Path) -> None:
    (tmp_path / "folder" / "b").mkdir(parents=True)
    for name in ("z", "a b", "b/x", "b.txt", "b/ü", "empty"):
        (tmp_path / "folder" / name).write_bytes(name.encode() * 1000 if name != "empty" else b"")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "config", "core.analytics", "false"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text("stages: {s: {cmd: x, outs: [folder], deps: [.git/HEAD]}}\n")
    subprocess.run([sys.executable, "-m", "dvc", "commit", "-fq"], cwd=tmp_path, check=True)
    entry = read_lock(tmp_path / "dvc.lock")["s"]
    for item in (*entry["outs"], *entry["deps"]):
        assert {"path": item["path"], **file_hash(tmp_path / item["path"])} == item
    assert file_hash(tmp_path / "nowhere") == {}
