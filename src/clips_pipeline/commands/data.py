"""`kedro data look`: samples of the configured source, before anything is prepared."""

import os
from collections.abc import Callable
from typing import Any

import click

from clips_pipeline.commands.project import catalog_path, configuration
from clips_pipeline.commands.refusals import RefusedError
from clips_pipeline.commands.run import split_parameters


def data_commands(read: Callable[..., Any]) -> click.Group:
    """Return the command group `data`.

    Args:
        read: `pipelines.look.look`, which this layer must not import.
    """

    @click.group()
    def data() -> None:
        """Look at the data of an environment."""

    @data.command()
    @click.option("--split", help="Split to read. Default: train, or the first one that the source has.")
    @click.option(
        "--samples", type=click.IntRange(1, 200), default=10, show_default=True, help="Number of samples to read."
    )
    @click.option(
        "--seed",
        type=click.IntRange(0),
        help="Spread the samples over the split, drawn with this seed; of remote shards, their first samples. Default: the "
        "first samples.",
    )
    @click.option(
        "--params", callback=split_parameters, default="", help="Parameters, as for `kedro run`: a.b=1,c=[2,3]."
    )
    @click.option("--env", "-e", help="Environment whose source and parameters are used.")
    @click.pass_obj
    def look(
        metadata: Any, split: str | None, samples: int, seed: int | None, params: dict[str, Any], env: str | None
    ) -> None:
        """Show a few samples of the configured source: pictures, captions, and what the model reads of them.

        Nothing is prepared, and of remote shards only the beginning is read. The same is written as a page, data_look.html.
        """
        with configuration(metadata, env, params) as loader:
            from rich.console import Console

            from clips_pipeline.data.storage.retry import StorageError
            from clips_pipeline.reports.data.data_look import write_look
            from clips_pipeline.reports.data.look_terminal import show_look

            # Before another loader is made, which would resolve the globals of its own environment.
            entries = ("tokenizer", "caption_tables", "data_look")
            paths = {entry: catalog_path(metadata, loader, entry) for entry in entries}
            name = env or os.environ.get("KEDRO_ENV") or "local"
            try:
                with Console(stderr=True).status(f"reading {samples} samples"):
                    found = read(loader, paths, name, split=split, samples=samples, seed=seed)
            except StorageError as error:
                raise RefusedError(" ".join(str(error).split())) from None
            # First, since the reader of the output may stop early, as `head` does.
            write_look(found, paths["data_look"])
            show_look(found, Console())
            click.echo(f"open the page: {paths['data_look']}")

    return data
