"""`kedro lineage`: code, data and parameters of registered models."""

import json
from pathlib import Path
from typing import Any

import click

from clips_pipeline.commands.project import of_model, record


@click.group()
def lineage() -> None:
    """Code, data and parameters of registered models."""


@lineage.command()
@click.argument("version")
@click.option("--json", "as_json", is_flag=True, help="Print the full lineage as JSON.")
@of_model
def show(metadata: Any, version: str, name: str | None, env: str | None, as_json: bool) -> None:
    """Print the code, data and parameters of VERSION (a number, or an alias such as champion)."""
    with record(metadata, version, name, env) as found:
        if as_json:
            facts = {"name": found.name, "version": found.version, **found.lineage.to_mapping()}
            click.echo(json.dumps(facts, indent=1))
            return
        from clips_pipeline.io.terminal import safe_text
        from clips_pipeline.registry.lineage.record import describe

        click.echo(f"{found.name} {found.version}")
        click.echo(safe_text(describe(found.lineage)))


@lineage.command()
@click.argument("version")
@click.argument("folder", type=click.Path(path_type=Path))
@of_model
def restore(metadata: Any, version: str, folder: Path, name: str | None, env: str | None) -> None:
    """Create FOLDER as a checkout with the code, data and parameters of VERSION."""
    with record(metadata, version, name, env) as found:
        from clips_pipeline.registry.lineage.restore import restore as restore_record

        project = restore_record(found, metadata.project_path, folder)
        click.echo(f"{project}: restored {found.name} {found.version}; `dvc status` reports no change")
