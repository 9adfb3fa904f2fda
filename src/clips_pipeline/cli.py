"""Project commands beside Kedro's: `kedro data`, `dvc`, `lineage`, `compare`, `champion`, and those of `commands/standalone.py`.

`kedro run` is Kedro's, with a one-line error in place of a traceback for unreadable configuration, and with lists in
`--params`. Commands import what they need when they run.
"""

from typing import Any

import click

from clips_pipeline.commands.champion import champion
from clips_pipeline.commands.compare import compare
from clips_pipeline.commands.data import data_commands
from clips_pipeline.commands.lineage import lineage
from clips_pipeline.commands.run import run_command, split_parameters
from clips_pipeline.commands.standalone import standalone
from kedro_dvc_sync.cli import dvc

__all__ = ["cli", "run", "split_parameters"]


@click.group()
def cli() -> None:
    """Commands of clips-pipeline."""


# `python -m clips_pipeline` looks up the command by this name.
run = run_command()


def _look(*arguments: Any, **options: Any) -> Any:
    from clips_pipeline.pipelines.look import look

    return look(*arguments, **options)


for _command in (run, data_commands(_look), lineage, compare, champion, dvc, *standalone.commands.values()):
    cli.add_command(_command)
