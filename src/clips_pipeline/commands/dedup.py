"""`dedup`: near-duplicates in a table of embeddings."""

from pathlib import Path
from typing import Any

import click

from clips_pipeline.commands.refusals import refusals


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--drop-above", type=float, required=True, help="Cosine similarity above which a row is dropped: 0.95.")
@click.option(
    "--kind", type=click.Choice(["image", "text"]), default="image", show_default=True, help="What to compare."
)
@click.pass_obj
def dedup(metadata: Any, table: Path, out: Path, drop_above: float, kind: Any) -> None:
    """Write the near-duplicates in TABLE to the Parquet file OUT, which `prepare.filters.drop_table` takes.

    A row is dropped if it is too similar to an earlier row that is kept, so the first of a group stays.
    """
    with refusals(None):
        from clips_pipeline.embeddings.near_duplicates import write_near_duplicates

        dropped, rows = write_near_duplicates(table, out, drop_above, kind)
        click.echo(f"{out}: {dropped} of {rows} rows of kind {kind} are near-duplicates above {drop_above}")
        click.echo(f"leave them out: kedro run --pipelines prepare --params prepare.filters.drop_table={out}")
