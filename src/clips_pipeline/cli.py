"""Project commands beside Kedro's: `kedro dvc`, `kedro lineage`, `kedro compare`, `kedro champion`, `kedro export`,
`kedro import` and `kedro push`.

`kedro run` is Kedro's, with a one-line error in place of a traceback for unreadable configuration, and with lists in
`--params`. Commands import what they need when they run.
"""

import click

from clips_pipeline.commands.champion import champion
from clips_pipeline.commands.compare import compare
from clips_pipeline.commands.dedup import dedup
from clips_pipeline.commands.export import export
from clips_pipeline.commands.import_model import import_command
from clips_pipeline.commands.lineage import lineage
from clips_pipeline.commands.push import push
from clips_pipeline.commands.run import run_command, split_parameters
from clips_pipeline.commands.search import search
from clips_pipeline.commands.serve import serve
from kedro_dvc_sync.cli import dvc

__all__ = ["STANDALONE", "cli", "run", "split_parameters"]

STANDALONE = ("dedup", "export", "import", "push", "search", "serve")
"""Commands of `clips-pipeline` that need no project."""


@click.group()
def cli() -> None:
    """Commands of clips-pipeline."""


# `python -m clips_pipeline` looks up the command by this name.
run = run_command()

for _command in (run, lineage, compare, export, import_command, push, serve, search, dedup, champion, dvc):
    cli.add_command(_command)
