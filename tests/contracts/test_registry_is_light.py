"""Importing the pipelines and their settings loads no heavy package, so that every `kedro` command starts fast."""

import subprocess
import sys

import pytest

PROBE = """
import sys
from clips_pipeline.pipeline_registry import register_pipelines
pipelines = register_pipelines()
print(sorted(pipelines))
print([name for name in ("torch", "composer", "optuna", "mlflow", "webdataset", "matplotlib", "scipy") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def printed() -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_all_pipelines_are_registered(printed: list[str]) -> None:
    assert printed[0] == str(
        [
            "__default__",
            "benchmark",
            "embed",
            "evaluate",
            "export_benchmark",
            "finetune",
            "llava_probe",
            "prepare",
            "pretrain",
            "recaption",
            "register",
            "search",
            "study",
            "suite",
            "train",
        ]
    )


def test_no_heavy_package_is_imported(printed: list[str]) -> None:
    assert printed[1] == "[]"
