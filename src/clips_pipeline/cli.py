"""The project's own commands, beside Kedro's: `kedro dvc` and `kedro lineage`. What they need is imported when they run."""

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


cli.add_command(dvc)


@contextmanager
def _record(metadata: Any, version: str, name: str | None, env: str | None) -> Iterator[Any]:
    """The version's record, from the tracking server that the environment names; our errors as one message."""
    from kedro.framework.session import KedroSession

    from clips_pipeline.registry.lineage_store import fetch

    try:
        with KedroSession.create(metadata.project_path, env=env) as session:
            # Loading the context lets kedro-mlflow set the tracking server.
            context = session.load_context()  # type: ignore[attr-defined]
            yield fetch(name or context.params["register"]["name"], version)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
