"""The GPU benchmark runs on a CPU with tiny models, and without the packages that a bare machine lacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.gpu import equality, profile

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
    first = [line["first_loss"] for line in lines[:2]]
    assert first[0] == pytest.approx(first[1], rel=5e-2)
    assert lines[2]["ratio"] == pytest.approx(lines[0]["samples_per_s"] / lines[1]["samples_per_s"])
    assert of_part(results, "speed:tiny-64-mask-chunk2")
    assert not [line for line in results if "error" in line]


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


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void pytorch_flash::flash_bwd_kernel", "attention"),
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopB_NNT", "matrix product"),
        ("triton_poi_fused_addmm_gelu_1", "elementwise and copy"),
        ("triton_per_fused_add_addmm_native_layer_norm_view_3", "norm"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
    ],
)
def test_kernels_are_told_apart_by_their_names(name: str, kind: str) -> None:
    assert profile.kind_of(name) == kind


@pytest.fixture
def gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.mark.parametrize("padding", ["attend", "mask"])
def test_the_host_never_waits_for_a_gpu_in_a_step(gpu: None, padding: str) -> None:
    """Without a GPU: `test_a_step_on_the_meta_device_never_waits_and_attends_by_flash_alone`."""
    assert equality.host_waits(padding) == 0


def test_the_model_on_a_gpu_equals_float64(gpu: None) -> None:
    compared = [line for line in equality.measure(smoke=False) if "fp32" in line]
    assert len(compared) == 8
    assert all(line["fp32_within"] and line["bf16_within"] for line in compared), compared
