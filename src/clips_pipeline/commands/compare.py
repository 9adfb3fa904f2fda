"""`kedro compare`: two models, paired by item; with `--runs`, how two runs differ."""

import shlex
from pathlib import Path
from typing import Any

import click

from clips_pipeline.commands.project import catalog_path, configuration, context, environment


@click.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--set",
    "set_name",
    help="Evaluation set to compare on, also sugarcrepe or winoground. Default: the set that both were evaluated on.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Confidence level of the intervals.",
)
@click.option(
    "--runs",
    is_flag=True,
    help="Say how the two trainings differ: parameters, data, code, versions, hardware, curves. A run folder implies it.",
)
@environment
@click.pass_obj
def compare(
    metadata: Any, a: str, b: str, set_name: str | None, confidence: float, runs: bool, env: str | None
) -> None:
    """Compare model B with model A, paired by item: by image, or by entry. With --runs, compare their trainings.

    A and B: models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID, or a CSV file of per-item results; with --runs also a
    run folder, such as data/06_models/runs/0123456789abcdef, or only its name.
    """
    if runs or any((Path(name) / "run_spec.json").is_file() for name in (a, b)):
        _compare_runs(metadata, a, b, env)
        return
    with context(metadata, env) as loaded:
        from rich.console import Console

        from clips_pipeline.registry.versions.compare_models import compare_references
        from clips_pipeline.reports.model.comparison import terminal_table, verdicts, write_comparison

        differences, items = compare_references(a, b, set_name, confidence=confidence)
        console = Console()
        console.print(terminal_table(differences, items, confidence, console.width))
        for sentence in verdicts(differences, confidence):
            click.echo(sentence)
        report = loaded.catalog.load("paths")["comparison_report"]
        click.echo(f"open the report: {write_comparison(differences, (a, b), items, confidence, report)}")
        if all(name.startswith(("runs:/", "models:/")) for name in (a, b)):
            click.echo(f"how their trainings differ: kedro compare --runs {shlex.quote(a)} {shlex.quote(b)}")


def _compare_runs(metadata: Any, a: str, b: str, env: str | None) -> None:
    with configuration(metadata, env) as loader:
        from rich.console import Console

        from clips_pipeline.registry.differences.compare_runs import compare_runs
        from clips_pipeline.reports.model.run_comparison import show_run_comparison, write_run_comparison

        folder = catalog_path(metadata, loader, "training_runs")
        page = catalog_path(metadata, loader, "run_comparison")
        found = compare_runs(*(_read_run(metadata, name, folder, env) for name in (a, b)))
        # First, since the reader of the output may stop early, as `head` does.
        write_run_comparison(found, page)
        show_run_comparison(found, Console())
        click.echo(f"\nopen the page: {page}")


def _read_run(metadata: Any, name: str, runs: Path, env: str | None) -> Any:
    from clips_pipeline.registry.differences.from_folder import find_run_folder, read_folder, unknown_run

    if name.startswith(("runs:/", "models:/")):
        with context(metadata, env):
            from clips_pipeline.registry.differences.from_mlflow import read_mlflow

            return read_mlflow(name)
    found = find_run_folder(name, runs)
    if found is None:
        raise unknown_run(name, runs)
    return read_folder(name, found)
