"""The project's own commands, beside Kedro's: `kedro dvc` and `kedro lineage`."""

import click
from kedro.framework.cli.project import run as run  # `python -m clips_pipeline` looks for it here

from kedro_dvc_sync.cli import dvc


@click.group()
def cli() -> None:
    """Commands of clips-pipeline."""


cli.add_command(dvc)
