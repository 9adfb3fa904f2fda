"""`search`: the nearest images or captions of a table of embeddings."""

from pathlib import Path
from typing import Any

import click

from clips_pipeline.commands.project import environment, model_folder
from clips_pipeline.commands.refusals import RefusedError

DEFAULT_MODEL = "data/06_models/clips"


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.argument("text", required=False)
@click.option("--image", type=click.Path(path_type=Path), help="Search by this image instead of a text.")
@click.option("-k", "count", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Number of results.")
@click.option(
    "--kind",
    type=click.Choice(["image", "text", "both"]),
    default="image",
    show_default=True,
    help="What to find: images, captions, or both.",
)
@click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, help="Model that made TABLE: folder, models:/… or runs:/…."
)
@click.option(
    "--engine",
    type=click.Choice(["exact", "faiss"]),
    default="exact",
    show_default=True,
    help="faiss (an extra) is approximate above 100,000 rows; it builds its index first, so it pays for many searches.",
)
@click.option("--html", type=click.Path(path_type=Path), help="Also write a page of the results with pictures.")
@environment
@click.pass_obj
def search(
    metadata: Any,
    table: Path,
    text: str | None,
    image: Path | None,
    count: int,
    kind: str,
    model: str,
    engine: str,
    html: Path | None,
    env: str | None,
) -> None:
    """Print the rows of TABLE, a file of `kedro run --pipelines embed`, that are most similar to TEXT or to an image."""
    if (text is None) == (image is None):
        raise RefusedError("search: give one query: a text, or --image FILE")
    if text is not None and not text.strip():
        raise RefusedError("search: the text is empty; say what to look for")
    if model == DEFAULT_MODEL and not Path(model).exists():
        raise RefusedError(f"search: there is no {model} here; give --model, the model that made TABLE")
    with model_folder(metadata, model, env) as fetch:
        from clips_pipeline.embeddings.index import load_index, search_table
        from clips_pipeline.embeddings.table import EmbeddingTable
        from clips_pipeline.interop.digest import model_digest
        from clips_pipeline.io.terminal import safe_text

        folder = fetch()
        # Before the model is loaded, which takes longer.
        EmbeddingTable(table).require_model(digest := model_digest(folder))
        query = _embed_query(folder, text, image)
        wanted: Any = None if kind == "both" else kind
        if engine == "faiss":
            (hits,) = load_index(table, digest, engine="faiss", kind=wanted).search(query, count)
        else:
            (hits,) = search_table(table, query, count, model=digest, kind=wanted)
        for hit in hits:
            caption = "" if hit.text is None else f"  {safe_text(hit.text)}"
            click.echo(f"{hit.score:.4f}  {safe_text(hit.key)}{caption}")
        if html is not None:
            from clips_pipeline.reports.search_results import write_results

            click.echo(f"open the page: {write_results(hits, text, image, table, html)}")


def _embed_query(folder: Path, text: str | None, image: Path | None) -> Any:
    from clips_pipeline.config import ConfigError
    from clips_pipeline.data.images.transforms import UndecodableImageError
    from clips_pipeline.loading import load_model

    clips = load_model(folder)
    if text is not None:
        return clips.embed_texts(text)
    assert image is not None  # noqa: S101  (one of the two is given)
    try:
        return clips.embed_images(image)
    except UndecodableImageError as error:
        raise ConfigError(f"{error}; give a JPEG, PNG or WebP file") from None
    except OSError as error:
        raise ConfigError(f"--image {image}: {error.strerror}; give the path of an image") from None
