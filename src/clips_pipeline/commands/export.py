"""`export`: a model in the form of another library."""

from pathlib import Path
from typing import Any

import click

from clips_pipeline.commands.project import context, environment
from clips_pipeline.commands.refusals import refusals


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", "form", required=True, help="Form: open-clip, onnx or transformers.")
@environment
@click.pass_obj
def export(metadata: Any, model: str, out: Path, form: str, env: str | None) -> None:
    """Write MODEL to the folder OUT in the form of another library, which must compute the same before OUT is kept.

    MODEL: a model folder (data/06_models/clips), models:/NAME/VERSION, models:/NAME@ALIAS or runs:/ID/PATH.
    `clips-pipeline export` does the same outside a project.
    """
    is_uri = model.startswith(("models:/", "runs:/"))
    # Only a URI needs the project's tracking server.
    with context(metadata, env) if is_uri and metadata is not None else refusals(None):
        from clips_pipeline.interop.export.export_model import export_model

        folder, card = Path(model), None
        if is_uri:
            from clips_pipeline.registry.versions.model_card import load_card
            from clips_pipeline.registry.versions.packaging import fetch_model_folder_for_load

            folder, card = fetch_model_folder_for_load(model), load_card(model)
        differences = export_model(folder, out, form, card)
        for name, value in sorted(differences.items()):
            click.echo(f"{name}: largest difference {value:.1e}")
        click.echo(f"{out}: written; README.md has the lines that load it")
