"""Summary at the end of a run."""

import io
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from rich.console import Console

from clips_pipeline.pipeline_registry import register_pipelines
from clips_pipeline.pipelines import summary

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


def last_lines(environment: str, made: str, width: int = 240, folder: str = "data/x/search") -> str:
    entries: dict[str, Any] = {
        "params:search": {},
        "paths": {"search_folder": Path(folder), "search_report": Path("data/x/report"), "clips_model": Path("data/m")},
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


# The pipeline, and a line that tells what to do after it.
NEXT = {
    "prepare": ".venv/bin/kedro run --pipelines train --env photos",
    "train": ".venv/bin/kedro run --pipelines evaluate --env photos",
    "evaluate": ".venv/bin/kedro run --pipelines register --env photos",
    "register": "data/made/model_report",
    "pretrain": ".venv/bin/clips-pipeline serve data/made/clips_model",
    "__default__": "data/made/model_report",
    "finetune": "data/made/finetuned_model_report",
    "search": ".venv/bin/kedro run --pipelines pretrain --env best",
    "study": "data/made/study_report/README.md",
    "llava_probe": "data/made/llava_probe_report/README.md",
    "benchmark": "data/made/evaluation_report",
    "export_benchmark": "data/made/clip_benchmark_set",
    "embed": '.venv/bin/clips-pipeline search data/made/embedding_table "a red balloon" --model data/made/clips_model',
    "recaption": "data/made/recaptioned",
    "suite": "data/made/suite_report/suite.html",
}


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return register_pipelines()


def test_every_pipeline_is_here(pipelines: dict[str, Pipeline]) -> None:
    assert pipelines.keys() == NEXT.keys()


class Made(dict[str, Path]):
    """Every path."""

    def __missing__(self, name: str) -> Path:
        return Path.cwd() / "data" / "made" / name


@pytest.mark.parametrize("name", NEXT)
def test_every_pipeline_ends_with_what_to_do_next(name: str, pipelines: dict[str, Pipeline]) -> None:
    made = Made()
    values: dict[str, Any] = {output: made[output] for output in pipelines[name].all_outputs()}
    values |= {output: {"retrieval/x/mean_recall@1": 0.5} for output in values if output.endswith("metrics")}
    values |= {
        output: {"uri": "models:/x/1", "reason": "first"} for output in values if output.endswith("registered_model")
    }
    values |= {"paths": made, "params:search": {}, "params:evaluate": {}, "params:embed": {}}
    catalog = DataCatalog({entry: MemoryDataset(value, copy_mode="assign") for entry, value in values.items()})
    written = io.StringIO()
    summary.show(pipelines[name], catalog, "photos", Console(file=written, width=60))
    text = written.getvalue()
    assert f"\n  {NEXT[name]}\n" in text
    assert str(Path.cwd()) not in text.replace("sqlite:///" + str(Path.cwd()), "")
    steps = [line for line in text.splitlines() if line.startswith("  ")]
    assert 1 <= len(steps) <= 6
    assert ("register --env" in text) == (name == "evaluate")  # not for results on another set
