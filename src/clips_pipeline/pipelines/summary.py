"""Summary at the end of a run: metrics, registration, and the commands to run next."""

import shlex
from typing import Any

import mlflow
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.registry.tracking.server import ui_command_or_url
from clips_pipeline.tuning.config import study_url

# Environment written by a search.
BEST = "best"


def show(
    pipeline: Pipeline, catalog: CatalogProtocol[Any, Any], environment: str, console: Console | None = None
) -> None:
    """Print metrics, registration and the next commands, for the outputs that this pipeline makes."""
    console = console or Console()
    outputs = pipeline.all_outputs()
    for metrics in sorted({"metrics", "finetuned_metrics"} & outputs):
        console.print(_metrics_table(catalog.load(metrics)))
    for entry, report in (
        ("registered_model", "model_report"),
        ("finetuned_registered_model", "finetuned_model_report"),
    ):
        if entry in outputs:
            registered = catalog.load(entry)
            console.print(
                f"registered as [bold]{escape(registered['uri'])}[/bold]: {escape(registered['reason'])}",
                soft_wrap=True,
            )
        if report in outputs:
            _print_next(console, "open the report:", catalog.load(report))
    if {"clips_model", "finetuned_model", "search_trials"} & outputs:
        _print_next(
            console, "open the MLflow UI (a local one: 127.0.0.1:5000):", ui_command_or_url(mlflow.get_tracking_uri())
        )
        # In the environment `best` there is no study: it is stored with the environment that was searched.
        if environment != BEST:
            option = "" if environment == "local" else f" ENV={environment}"
            first = "" if "search_trials" in outputs else f", after `make search{option}`"
            label = f"open the Optuna dashboard (127.0.0.1:8080){first}:"
            kind = typed("search", catalog.load("params:search")).storage.kind
            study = study_url(kind, catalog.load("paths")["search_folder"])
            _print_next(console, label, f".venv/bin/optuna-dashboard {shlex.quote(study)}")
    if "search_trials" in outputs:
        _print_next(console, "read the search summary:", f"{catalog.load('paths')['search_report']}/summary.md")
        command = f".venv/bin/kedro run --pipelines pretrain --env {BEST}"
        _print_next(console, "train with the best parameters:", command)
    if "suite_report" in outputs:
        _print_next(console, "open the table of the suite:", f"{catalog.load('paths')['suite_report']}/suite.html")
    for name, label in (("study", "study"), ("llava_probe", "LLaVA probe's")):
        if f"{name}_summary" in outputs:
            _print_next(console, f"read the {label} summary:", f"{catalog.load('paths')[f'{name}_report']}/README.md")


def _print_next(console: Console, label: str, target: object) -> None:
    """Print a command or file on a line of its own, which the terminal's width does not wrap, so that it can be copied."""
    console.print(label, highlight=False, soft_wrap=True, markup=False)
    console.print(f"  {target}", highlight=False, soft_wrap=True, markup=False)


def _metrics_table(metrics: dict[str, float]) -> Table:
    table = Table("metric", "value", title="held-out metrics", title_justify="left")
    for name, value in metrics.items():
        table.add_row(escape(name), f"{value:.4f}")
    return table
