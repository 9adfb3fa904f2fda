"""The GPU benchmark runs on a CPU with tiny models, and without the packages that a bare machine lacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = (
    "annotated_types", "composer", "kedro", "mlflow", "open_clip", "optuna", "pandas", "psutil", "pydantic", "rich", "timm",
    "tokenizers", "torchvision", "transformers", "webdataset", "yaml",
)  # fmt: skip
SITE = f"""
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {BLOCKED!r} else find(name, package)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "sitecustomize.py").write_text(SITE)
    paths = os.pathsep.join([str(folder), str(repository / "src"), str(repository)])
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--smoke", "--out", str(folder / "out"), "--budget", "200"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert (folder / "out" / "results.jsonl").exists(), done.stderr
    lines = [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]
    logs = {path.name: path.read_text()[-2000:] for path in (folder / "out").glob("*.log")}
    assert done.returncode == 0, (done.stderr, [line for line in lines if line.get("ended") not in (None, "ok")], logs)
    return lines


def of_part(results: list[dict[str, object]], part: str) -> list[dict[str, object]]:
    return [line for line in results if line["part"] == part and "ended" not in line]


def test_every_part_ends_well(results: list[dict[str, object]]) -> None:
    ended = {line["part"]: line["ended"] for line in results if "ended" in line}
    assert set(ended.values()) == {"ok"}
    assert len(ended) == 7


def test_the_model_equals_float64(results: list[dict[str, object]]) -> None:
    compared = [line for line in of_part(results, "equality") if "fp32" in line]
    assert len(compared) == 4
    assert all(line["fp32_within"] and line["bf16_within"] for line in compared), compared


def test_speed_has_both_sides_and_their_ratio(results: list[dict[str, object]]) -> None:
    lines = of_part(results, "speed:tiny-64-attend")
    assert [line.get("side") for line in lines] == ["ours eager", "plain eager", None]
    # Of the same size, no more: the sides draw their own weights; `equality` compares with the same ones.
    first = [line["first_loss"] for line in lines[:2]]
    assert first[0] == pytest.approx(first[1], rel=5e-2)
    assert lines[2]["ratio"] == pytest.approx(lines[0]["samples_per_s"] / lines[1]["samples_per_s"])
    assert of_part(results, "speed:tiny-64-mask-chunk2")


def test_every_call_site_and_the_loader_are_there(results: list[dict[str, object]]) -> None:
    sites = of_part(results, "attention")
    assert len(sites) == 9
    assert all(line["kernels"] for line in sites)
    workers, together = of_part(results, "loader")
    assert workers["images_per_s"] > 0
    assert 0 <= together["waiting_share"] <= 1
    profiles = of_part(results, "profile")
    assert [line["case"] for line in profiles] == ["tiny-64-attend", "tiny-64-mask-chunk2"]
    assert all(line["ms"]["matrix product"] > 0 for line in profiles)
