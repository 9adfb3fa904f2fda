"""The commands that `kedro` has in this project only, for docs/reference/commands.md."""

import click

from clips_pipeline.cli import cli
from clips_pipeline.commands.standalone import standalone

project = click.Group(
    "kedro",
    commands={name: command for name, command in cli.commands.items() if name not in standalone.commands},
    help="Commands of the project.",
)
