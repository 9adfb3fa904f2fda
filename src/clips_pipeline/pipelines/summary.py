"""The last lines of a run: what came out, and the commands that show it."""

from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clips_pipeline.pipelines.parameters import typed

# The environment that a search writes.
BEST = "best"


def show(
    pipeline: Pipeline, catalog: CatalogProtocol[Any, Any], environment: str, console: Console | None = None
) -> None:
    """Print metrics, registration and next commands, as far as this pipeline made them."""
    console = console or Console()
    made = pipeline.all_outputs()
    for metrics in sorted({"metrics", "finetuned_metrics"} & made):
        console.print(_metrics_table(catalog.load(metrics)))
    for entry, report in (
        ("registered_model", "model_report"),
        ("finetuned_registered_model", "finetuned_model_report"),
    ):
        if entry in made:
            registered = catalog.load(entry)
            console.print(f"registered as [bold]{escape(registered['uri'])}[/bold]: {escape(registered['reason'])}")
        if report in made:
            console.print(f"open the report:    {catalog.load(report)}", soft_wrap=True, highlight=False)
    if {"clips_model", "finetuned_model", "search_trials"} & made:
        import mlflow

        from clips_pipeline.registry.web_pages import how_to_open

        console.print(
            f"open the MLflow UI: {how_to_open(mlflow.get_tracking_uri())}",
            soft_wrap=True,
            highlight=False,
        )
        # What a search found is trained apart from it: the study lies in the environment that was searched.
        if environment != BEST:
            first = "" if "search_trials" in made else f", after `make search{_env_option(environment)}`"
            console.print(
                f"open the Optuna dashboard: .venv/bin/optuna-dashboard {_study(catalog)}   # 127.0.0.1:8080{first}",
                soft_wrap=True,
                highlight=False,
            )
    if "search_trials" in made:
        console.print(f"read what was found: {catalog.load('search_report_target')}/summary.md", soft_wrap=True)
        console.print("train with the best parameters: .venv/bin/kedro run --pipelines pretrain --env " + BEST)
    if "study_summary" in made:
        console.print(
            f"read what came out: {catalog.load('study_report_target')}/README.md", soft_wrap=True, highlight=False
        )


def _env_option(environment: str) -> str:
    return "" if environment == "local" else f" ENV={environment}"


def _study(catalog: CatalogProtocol[Any, Any]) -> str:
    from clips_pipeline.tuning.config import study_address

    config = typed("search", catalog.load("params:search"))
    return study_address(config.storage.kind, catalog.load("search_folder_target"))


def _metrics_table(metrics: dict[str, float]) -> Table:
    table = Table("metric", "value", title="held-out metrics", title_justify="left")
    for name, value in metrics.items():
        table.add_row(escape(name), f"{value:.4f}")
    return table
