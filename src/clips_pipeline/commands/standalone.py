"""The commands of `clips-pipeline` that need no project, and no Kedro."""

import click

from clips_pipeline.commands.dedup import dedup
from clips_pipeline.commands.export import export
from clips_pipeline.commands.import_model import import_command
from clips_pipeline.commands.push import push
from clips_pipeline.commands.search import search
from clips_pipeline.commands.serve import serve


@click.group()
def standalone() -> None:
    """Use trained models, in a project or anywhere else.

    With options, `clips-pipeline` is `kedro run` in the project's folder: `clips-pipeline --pipelines pretrain`.
    """


for _command in (dedup, export, import_command, push, search, serve):
    standalone.add_command(_command)
