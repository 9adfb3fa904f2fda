"""A small Kedro project, different from ours, that uses `kedro_dvc_sync`."""

import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from kedro.framework import project as kedro_project

SOURCES = Path(__file__).resolve().parents[3] / "src"
NUMBERS = itertools.count()

FILES = {
    "pyproject.toml": """
        [tool.kedro]
        package_name = "PACKAGE"
        project_name = "tiny"
        kedro_init_version = "1.7.0"
        [tool.kedro-dvc]
        formats = "src/PACKAGE/formats.py"
        """,
    "conf/base/catalog.yml": """
        raw: {type: json.JSONDataset, filepath: data/01_raw/raw.json, credentials: only_here}
        clean: {type: json.JSONDataset, filepath: data/02_intermediate/clean.json, metadata: {dvc: {formats: [CLEAN]}}}
        "{name}_metrics":
          type: json.JSONDataset
          filepath: "${globals:reports}/{name}.json"
          metadata: {dvc: {metrics: true, cache: false}}
        table:
          type: PACKAGE.tables.LineDataset
          filepath: data/08_reporting/table.csv
          metadata: {dvc: {plots: true, desc: one line, formats: [MODEL]}}
        """,
    "conf/base/globals.yml": "reports: data/08_reporting\nfactor: 3\n",
    "conf/base/parameters.yml": """
        clean: {drop: 1, unused: 2}
        model:
          scale: ${globals:factor}
          more: {power: 2, words: zero}
        other: 5
        """,
    "conf/local/credentials.yml": "only_here: {}\n",
    "conf/twice/globals.yml": "reports: data/twice\nfactor: 6\n",
    "conf/twice/parameters.yml": "model: {more: {power: 3}}\n",
    "data/01_raw/raw.json": "[1, 2, 3]",
    "src/PACKAGE/__init__.py": "",
    "src/PACKAGE/settings.py": """
        from kedro_dvc_sync.hooks import DvcHooks
        HOOKS = (DvcHooks(),)
        DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow",)
        CONFIG_LOADER_ARGS = {"base_env": "base", "default_run_env": "local", "merge_strategy": {"parameters": "soft"}}
        """,
    "src/PACKAGE/cli.py": """
        import click
        from kedro_dvc_sync.cli import dvc
        from kedro.framework.cli.project import run

        @click.group()
        def cli(): pass

        cli.add_command(dvc)
        """,
    "src/PACKAGE/pipeline_registry.py": """
        from PACKAGE.pipelines import cleaning, modelling
        def register_pipelines():
            parts = {"clean": cleaning.pipeline.create(), "model": modelling.pipeline.create()}
            return {**parts, "both": parts["clean"] + parts["model"], "__default__": parts["clean"] + parts["model"]}
        """,
    "src/PACKAGE/tables.py": """
        from pathlib import Path
        from kedro.io import AbstractDataset
        class LineDataset(AbstractDataset):
            def __init__(self, filepath, metadata=None): self.filepath = filepath
            def load(self): return Path(self.filepath).read_text()
            def save(self, data): Path(self.filepath).write_text(data)
            def _describe(self): return {}
        """,
    "src/PACKAGE/powers.py": "def power(x, n):\n    from PACKAGE import words\n    return x ** n + len(words.LIST)\n",
    "src/PACKAGE/words.py": "LIST = []\n",
    "src/PACKAGE/formats.py": "CLEAN = 1\nMODEL = 1\n",
    "src/PACKAGE/pipelines/__init__.py": "",
    "src/PACKAGE/pipelines/cleaning/__init__.py": "from . import pipeline as pipeline\n",
    "src/PACKAGE/pipelines/cleaning/nodes.py": "def clean(rows, drop):\n    return [row for row in rows if row > drop]\n",
    "src/PACKAGE/pipelines/cleaning/pipeline.py": """
        from kedro.pipeline import Node, Pipeline
        from .nodes import clean
        def create():
            return Pipeline([Node(clean, ["raw", "params:clean.drop"], "clean", name="clean_node")])
        """,
    "src/PACKAGE/pipelines/modelling/__init__.py": "from . import pipeline as pipeline\n",
    "src/PACKAGE/pipelines/modelling/nodes.py": """
        from PACKAGE.powers import power
        def model(rows, scale, more):
            return sum(scale * power(row, more["power"]) for row in rows)
        def report(total):
            return {"total": total}, f"total,{total}"
        """,
    "src/PACKAGE/pipelines/modelling/pipeline.py": """
        from kedro.pipeline import Node, Pipeline
        from .nodes import model, report
        def create():
            return Pipeline([
                Node(model, ["clean", "params:model.scale", "params:model.more"], "total", name="model_node"),
                Node(report, "total", ["final_metrics", "table"], name="report_node"),
            ])
        """,
}


class Tiny:
    """The project in its folder."""

    def __init__(self, root: Path, package: str) -> None:
        self.root, self.package = root, package

    def write(self, name: str, text: str) -> None:
        file = self.root / name.replace("PACKAGE", self.package)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n").replace("PACKAGE", self.package))

    def edit(self, name: str, old: str, new: str) -> None:
        file = self.root / name.replace("PACKAGE", self.package)
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    def run(self, *command: str, status: int = 0) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{SOURCES}:{self.root / 'src'}",
            "DO_NOT_TRACK": "1",
            "COLUMNS": "200",
        }
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=self.root, capture_output=True, text=True, env=environment
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiny]:
    """A project with its own package name, because Kedro has one project per process; the changes are undone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    project = Tiny(tmp_path, f"tiny_{next(NUMBERS)}")
    for name, text in FILES.items():
        project.write(name, text)
    yield project
    for name in [name for name in sys.modules if name.split(".")[0] == project.package]:
        del sys.modules[name]
    kedro_project.PACKAGE_NAME = None
