"""Summary at the end of a run."""

import io
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from rich.console import Console

from clips_pipeline.pipelines import summary

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


def last_lines(environment: str, made: str, width: int = 240, folder: str = "data/x/search") -> str:
    entries: dict[str, Any] = {
        "params:search": {},
        "paths": {"search_folder": Path(folder), "search_report": Path("data/x/report")},
    }
    catalog = DataCatalog({name: MemoryDataset(value) for name, value in entries.items()})
    pipeline = Pipeline([Node(lambda value: value, "params:search", made, name="one")])
    written = io.StringIO()
    summary.show(pipeline, catalog, environment, Console(file=written, width=width))
    return written.getvalue()


def test_the_dashboard_command_mentions_the_search():
    label, command = (
        "open the Optuna dashboard (127.0.0.1:8080)",
        "  .venv/bin/optuna-dashboard sqlite:///data/x/search/study.db",
    )
    assert f"{label}, after `make search`:\n{command}\n" in last_lines("local", "clips_model")
    assert f"{label}, after `make search ENV=smoke`:\n{command}\n" in last_lines("smoke", "clips_model")
    assert f"{label}:\n{command}\n" in last_lines("smoke", "search_trials")


def test_commands_are_separate_lines_in_a_narrow_terminal():
    narrow = last_lines("smoke", "search_trials", width=40)
    assert narrow == last_lines("smoke", "search_trials")
    assert "\n  .venv/bin/kedro run --pipelines pretrain --env best\n" in narrow


def test_paths_in_commands_are_quoted():
    text = last_lines("local", "search_trials", folder="my data/$HOME; id")
    assert "\n  .venv/bin/optuna-dashboard 'sqlite:///my data/$HOME; id/study.db'\n" in text


def test_the_best_environment_shows_no_study():
    text = last_lines("best", "clips_model")
    assert "mlflow ui" in text
    assert "optuna-dashboard" not in text


def test_commands_stay_on_one_line_in_a_narrow_terminal():
    assert last_lines("local", "search_trials", width=60) == last_lines("local", "search_trials")
