"""`export`: a model in the form of another library."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from clips_pipeline.commands.project import environment, model_folder
from clips_pipeline.config import ConfigError


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", "form", required=True, help="Form: open-clip, onnx or transformers.")
@click.option("--license", "weights_license", help="License of the weights for the README, such as apache-2.0.")
@click.option(
    "--recall-set",
    type=click.Path(path_type=Path),
    help="Folder of prepared shards. --to onnx also writes int8 if recall on it stays.",
)
@click.option(
    "--recall-split",
    type=click.Choice(["test", "validation", "train"]),
    default="test",
    show_default=True,
    help="Split of --recall-set.",
)
@click.option(
    "--max-recall-drop",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.005,
    show_default=True,
    help="Int8 is kept if mean recall@1 (from 0 to 1) falls by less.",
)
@environment
@click.pass_obj
def export(
    metadata: Any,
    model: str,
    out: Path,
    form: str,
    weights_license: str | None,
    recall_set: Path | None,
    recall_split: Any,
    max_recall_drop: float,
    env: str | None,
) -> None:
    """Write MODEL to the folder OUT in the form of another library, which must compute the same before OUT is kept.

    MODEL: a model folder (data/06_models/clips), models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/PATH, or a folder of
    open_clip's form with a CLIPS model. `clips-pipeline export` does the same outside a project.
    """
    with model_folder(metadata, model, env) as fetch:
        from clips_pipeline.evaluation.int8_recall import Int8Gate
        from clips_pipeline.interop.export.export_model import export_model
        from clips_pipeline.interop.export.readme import LICENSE, Provenance

        if weights_license is not None and not LICENSE.fullmatch(weights_license):
            raise ConfigError(f"--license {weights_license!r}: give an identifier, such as apache-2.0 or other")
        gate = None if recall_set is None else Int8Gate(recall_set, recall_split, max_recall_drop)
        folder, known = fetch(), Provenance()
        if folder != Path(model):  # it was fetched
            from clips_pipeline.registry.versions.provenance import provenance_of

            known = provenance_of(model)
        differences = export_model(folder, out, form, replace(known, license=weights_license), gate)
        for name, value in sorted(differences.items()):
            click.echo(f"{name}: largest difference {value:.1e}")
        if gate is not None and gate.check is not None:
            words = "written" if gate.check.kept else "not written"
            click.echo(f"int8: {words}, {gate.check}; accepted is a fall of less than {max_recall_drop:g}")
        elif form == "onnx":
            click.echo(
                "int8: not written, because its recall was not measured; give --recall-set data/03_primary/shards"
            )
        click.echo(f"{out}: written; README.md has the lines that load it")
