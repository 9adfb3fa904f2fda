"""`kedro compare`: two models, paired by item."""

from typing import Any

import click

from clips_pipeline.commands.project import context, environment


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
@environment
@click.pass_obj
def compare(metadata: Any, a: str, b: str, set_name: str | None, confidence: float, env: str | None) -> None:
    """Compare model B with model A, paired by item: by image, or by entry.

    A and B: models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID, or a CSV file of per-item results.
    """
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
