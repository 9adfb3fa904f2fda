"""The project's own commands, beside Kedro's: `kedro dvc`, `kedro lineage`, `kedro compare` and `kedro champion`.

What they need is imported when they run.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as run  # `python -m clips_pipeline` looks for it here

from clips_pipeline.config import ConfigError
from kedro_dvc_sync.cli import dvc


@click.group()
def cli() -> None:
    """Commands of clips-pipeline."""


@cli.group()
def lineage() -> None:
    """Code, data and parameters of registered models."""


_name = click.option("--name", help="The registered model; by default register.name of the environment.")
_environment = click.option("--env", "-e", help="The environment whose mlflow.yml and register.name count.")


@lineage.command()
@click.argument("version")
@_name
@_environment
@click.option("--json", "as_json", is_flag=True, help="All of it, for programs.")
@click.pass_obj
def show(metadata: Any, version: str, name: str | None, env: str | None, as_json: bool) -> None:
    """Print what VERSION (a number or an alias, such as champion) was made of."""
    with _record(metadata, version, name, env) as record:
        if as_json:
            facts = {"name": record.name, "version": record.version, **record.lineage.to_mapping()}
            click.echo(json.dumps(facts, indent=1))
            return
        from clips_pipeline.registry.lineage import described

        click.echo(f"{record.name} {record.version}")
        click.echo(described(record.lineage))


@lineage.command()
@click.argument("version")
@click.argument("folder", type=click.Path(path_type=Path))
@_name
@_environment
@click.pass_obj
def restore(metadata: Any, version: str, folder: Path, name: str | None, env: str | None) -> None:
    """Make FOLDER a checkout with exactly the code, data and parameters of VERSION."""
    with _record(metadata, version, name, env) as record:
        from clips_pipeline.registry.restore import restore as restore_record

        project = restore_record(record, metadata.project_path, folder)
        click.echo(f"{project}: {record.name} {record.version} as it was made; `dvc status` finds no change")


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--set",
    "set_name",
    help="The set to compare on, also sugarcrepe or winoground; by default the one that both were evaluated on.",
)
@click.option(
    "--confidence", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95, show_default=True
)
@_environment
@click.pass_obj
def compare(metadata: Any, a: str, b: str, set_name: str | None, confidence: float, env: str | None) -> None:
    """Compare model B with model A, item by item: image by image, or entry by entry.

    A and B: models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID, or a CSV file of per-item results.
    """
    with _context(metadata, env) as context:
        from rich.console import Console
        from rich.table import Table

        from clips_pipeline.evaluation.comparison_report import HEAD, cells, verdicts, write_comparison
        from clips_pipeline.registry.comparing import compare_references

        differences, items = compare_references(a, b, set_name, confidence=confidence)
        shown = Table(*HEAD, title=f"{items} items, intervals of {confidence:.0%}", title_justify="left")
        for difference in differences:
            shown.add_row(*cells(difference))
        console = Console()
        console.print(shown)
        for sentence in verdicts(differences, confidence):
            click.echo(sentence)
        report = context.catalog.load("comparison_report_target")
        click.echo(f"open the report: {write_comparison(differences, (a, b), items, confidence, report)}")


@cli.group()
def champion() -> None:
    """Which version the alias of production means, and moving it by hand."""


_reason = click.option("--reason", required=True, help="Why; kept with the version.")


@champion.command()
@_name
@_environment
@_reason
@click.pass_obj
def rollback(metadata: Any, name: str | None, env: str | None, reason: str) -> None:
    """Give the alias back to the version that had it before."""
    with _aliases(metadata, name, env) as aliases:
        from clips_pipeline.registry.champion import roll_back

        lost, won = roll_back(aliases, reason)
        click.echo(f"models:/{aliases.model}@{aliases.champion} is version {won} again, and no longer {lost}")


@champion.command("set")
@click.argument("version", type=int)
@_name
@_environment
@_reason
@click.pass_obj
def set_champion(metadata: Any, version: int, name: str | None, env: str | None, reason: str) -> None:
    """Give the alias to VERSION, whatever the gate says."""
    with _aliases(metadata, name, env) as aliases:
        from clips_pipeline.registry.champion import crown

        before = crown(aliases, version, reason)
        click.echo(f"models:/{aliases.model}@{aliases.champion} is version {version}; before: {before or 'none'}")


cli.add_command(dvc)


@contextmanager
def _context(metadata: Any, env: str | None) -> Iterator[Any]:
    """Kedro's context of an environment, with its tracking server set; our errors as one message."""
    from kedro.framework.session import KedroSession

    try:
        with KedroSession.create(metadata.project_path, env=env) as session:
            # Loading the context lets kedro-mlflow set the tracking server.
            yield session.load_context()  # type: ignore[attr-defined]
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def _record(metadata: Any, version: str, name: str | None, env: str | None) -> Iterator[Any]:
    """The version's record, from the tracking server that the environment names."""
    with _context(metadata, env) as context:
        from clips_pipeline.registry.lineage_store import fetch

        yield fetch(name or context.params["register"]["name"], version)


@contextmanager
def _aliases(metadata: Any, name: str | None, env: str | None) -> Iterator[Any]:
    """The names of the aliases that the environment uses."""
    with _context(metadata, env) as context:
        from clips_pipeline.config import from_mapping
        from clips_pipeline.registry.champion import Aliases
        from clips_pipeline.registry.register import RegistryConfig

        config = from_mapping(RegistryConfig, context.params["register"], "register")
        yield Aliases(name or config.name, config.alias, config.challenger)
