"""`kedro data look` on the command line, in a project of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.data.samples import record, write_shard


@pytest.fixture(scope="module")
def project(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of this project, with links to its packages."""
    copy = tmp_path_factory.mktemp("project")
    shutil.copytree(repository / "conf", copy / "conf", ignore=shutil.ignore_patterns("credentials*"))
    shutil.copy(repository / "pyproject.toml", copy)
    (copy / "src").mkdir()
    for package in ("clips_pipeline", "kedro_dvc_sync"):
        (copy / "src" / package).symlink_to(repository / "src" / package)
    write_shard(copy / "00000.tar", [record(number) for number in range(9)], "00000.tar")
    return copy


def look(project: Path, *arguments: str) -> tuple[int, str]:
    line = [sys.executable, "-m", "kedro", "data", "look", *arguments]
    environment = {**os.environ, "COLUMNS": "300", "DO_NOT_TRACK": "1"}
    done = subprocess.run(line, cwd=project, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout + done.stderr


def files(project: Path) -> set[str]:
    return {str(path.relative_to(project)) for path in project.rglob("*") if "__pycache__" not in path.parts}


def source(project: Path) -> str:
    shards = f"{{train: {project}/00000.tar, validation: none, test: none}}"
    return f"prepare.source.kind=img2dataset,prepare.source.img2dataset={shards}"


def test_samples_are_shown_and_only_the_page_is_written(project: Path) -> None:
    before = files(project)
    code, output = look(project, "--env", "smoke", "--samples", "3", "--params", source(project))
    assert code == 0, output
    assert "environment: smoke" in output
    assert "tokenizer: not prepared yet; trained on the captions of these samples alone" in output
    assert [line.split()[1] for line in output.splitlines() if "  used " in line] == ["k0000", "k0001", "k0002"]
    assert "synthetic (4 words, " in output
    assert "fragment, sub_caption, epoch 2 (" in output
    assert output.splitlines()[-1] == f"open the page: {project}/data/smoke/08_reporting/data_look.html"
    made = {"data", "data/smoke", "data/smoke/08_reporting", "data/smoke/08_reporting/data_look.html"}
    assert files(project) - before == made


def test_an_error_is_one_line(project: Path) -> None:
    code, output = look(project, "--params", source(project), "--split", "test")
    assert code == 2
    assert output.strip() == "Error: --split test: the source has no such split; it has: train"


def test_nothing_heavy_is_imported() -> None:
    heavy = ["torch", "mlflow", "composer", "optuna", "matplotlib", "pandas", "dvc"]
    program = (
        "import json, sys, clips_pipeline.pipelines.look, clips_pipeline.reports.data.look_terminal\n"
        f"print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
