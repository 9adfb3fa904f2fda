"""`push`: an export to the hub."""

from pathlib import Path

import click

from clips_pipeline.commands.refusals import refusals


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repository")
@click.option("--public", is_flag=True, help="Make a new repository public, or use one that is. Default: private.")
def push(folder: Path, repository: str, public: bool) -> None:
    """Upload FOLDER, which `export` wrote, to the hub as REPOSITORY (OWNER/NAME), in one commit.

    A new repository is private unless --public is given, because what was public once cannot be taken back. The token is that
    of the variable HF_TOKEN or of `hf auth login`. Only files of an export are uploaded; a folder with others is refused.
    """
    with refusals(None):
        from clips_pipeline.interop.hub import push_folder

        click.echo(f"{repository}: pushed, {push_folder(folder, repository, public=public)}")
