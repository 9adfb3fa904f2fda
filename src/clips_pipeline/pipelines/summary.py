"""Summary at the end of a run: metrics, registration, what was made, and the commands to run next."""

import shlex
from collections.abc import Iterator
from typing import Any

import mlflow
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clips_pipeline.io.terminal import shown_path
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.registry.tracking.server import ui_command_or_url
from clips_pipeline.tuning.config import study_url

# Environment written by a search.
BEST = "best"

Step = tuple[str, object]
"""What to do, and the file or command that does it."""


def show(
    pipeline: Pipeline, catalog: CatalogProtocol[Any, Any], environment: str, console: Console | None = None
) -> None:
    """Print metrics, registration and the next steps, for the outputs that this pipeline makes."""
    console = console or Console()
    outputs = pipeline.all_outputs()
    for metrics in sorted({"metrics", "finetuned_metrics"} & outputs):
        console.print(_metrics_table(catalog.load(metrics)))
    for entry in ("registered_model", "finetuned_registered_model"):
        if entry in outputs:
            registered = catalog.load(entry)
            console.print(
                f"registered as [bold]{escape(registered['uri'])}[/bold]: {escape(registered['reason'])}",
                soft_wrap=True,
            )
    for label, target in _steps(pipeline, outputs, catalog, environment):
        # On a line of its own, which the terminal's width does not wrap, so that it can be copied.
        console.print(f"{label}:", highlight=False, soft_wrap=True, markup=False)
        console.print(f"  {target}", highlight=False, soft_wrap=True, markup=False)


def _steps(
    pipeline: Pipeline, outputs: set[str], catalog: CatalogProtocol[Any, Any], environment: str
) -> Iterator[Step]:
    for report in ("model_report", "finetuned_model_report"):
        if report in outputs:
            yield "open the report", shown_path(catalog.load(report))
    yield from _data_steps(outputs, catalog, environment)
    yield from _model_steps(pipeline, outputs, catalog, environment)
    yield from _table_steps(outputs, catalog)
    if {"clips_model", "finetuned_model", "search_trials"} & outputs:
        yield "open the MLflow UI (a local one: 127.0.0.1:5000)", ui_command_or_url(mlflow.get_tracking_uri())
        yield from _study_steps(outputs, catalog, environment)
    if "search_trials" in outputs:
        yield "read the search summary", f"{shown_path(catalog.load('paths')['search_report'])}/summary.md"
        yield "train with the best parameters", _kedro_run("pretrain", BEST)
    if "suite_report" in outputs:
        yield "open the table of the suite", f"{shown_path(catalog.load('paths')['suite_report'])}/suite.html"
    for name, label in (("study", "study"), ("llava_probe", "LLaVA probe's")):
        if f"{name}_summary" in outputs:
            yield f"read the {label} summary", f"{shown_path(catalog.load('paths')[f'{name}_report'])}/README.md"


def _data_steps(outputs: set[str], catalog: CatalogProtocol[Any, Any], environment: str) -> Iterator[Step]:
    if "data_health" not in outputs:
        return
    yield "look at the data: skipped samples, captions, examples", shown_path(catalog.load("data_health"))
    if "clips_model" not in outputs:
        yield "train on this data", _kedro_run("train", environment)


def _model_steps(
    pipeline: Pipeline, outputs: set[str], catalog: CatalogProtocol[Any, Any], environment: str
) -> Iterator[Step]:
    if "evaluation_report" in outputs and "registered_model" not in outputs:
        yield "open the page on this evaluation", shown_path(catalog.load("evaluation_report"))
        # Another model's results, or those on another set, are not registered.
        other = catalog.load("params:evaluate").get("model") is not None or "shards" in outputs
        if not other:
            yield "register the model", _kedro_run("register", environment)
    if "clips_model" in outputs and "metrics" not in outputs:
        yield "evaluate the model", _kedro_run("evaluate", environment)
    for model in ("clips_model", "finetuned_model"):
        if model in outputs:
            folder = shlex.quote(shown_path(catalog.load("paths")[model]))
            yield "try the model in a browser (127.0.0.1:8000)", f".venv/bin/clips-pipeline serve {folder}"


def _table_steps(outputs: set[str], catalog: CatalogProtocol[Any, Any]) -> Iterator[Step]:
    if "embedding_table" in outputs:
        table, model = catalog.load("paths")["embedding_table"], catalog.load("params:embed").get("model")
        own = shown_path(catalog.load("paths")["clips_model"])
        options = f" --model {shlex.quote(str(model or own))}"
        search = f".venv/bin/clips-pipeline search {shlex.quote(shown_path(table))}"
        yield "search in it by a text", f'{search} "a red balloon"{options}'
    if "recaptioned" in outputs:
        folder = shown_path(catalog.load("paths")["recaptioned"])
        yield "the captions, and shards with them (docs/how-to/recaption.md trains on them)", folder
    if "clip_benchmark_set" in outputs:
        folder = shown_path(catalog.load("paths")["clip_benchmark_set"])
        yield "evaluate any model on this set with CLIP_benchmark (docs/how-to/evaluate.md)", folder


def _study_steps(outputs: set[str], catalog: CatalogProtocol[Any, Any], environment: str) -> Iterator[Step]:
    # In the environment `best` there is no study: it is stored with the environment that was searched.
    if environment == BEST:
        return
    option = "" if environment == "local" else f" ENV={environment}"
    first = "" if "search_trials" in outputs else f", after `make search{option}`"
    kind = typed("search", catalog.load("params:search")).storage.kind
    study = study_url(kind, catalog.load("paths")["search_folder"])
    yield f"open the Optuna dashboard (127.0.0.1:8080){first}", f".venv/bin/optuna-dashboard {shlex.quote(study)}"


def _kedro_run(pipeline: str, environment: str) -> str:
    option = "" if environment == "local" else f" --env {environment}"
    return f".venv/bin/kedro run --pipelines {pipeline}{option}"


def _metrics_table(metrics: dict[str, float]) -> Table:
    table = Table("metric", "value", title="held-out metrics", title_justify="left")
    for name, value in metrics.items():
        table.add_row(escape(name), f"{value:.4f}")
    return table
