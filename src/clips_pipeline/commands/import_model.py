"""`import`: published weights as a model of this project."""

from pathlib import Path
from typing import Any

import click

from clips_pipeline.commands.project import context, environment
from clips_pipeline.commands.refusals import refusals


@click.command("import")
@click.argument("source")
@click.option("--name", help="Registered model. Default: the last part of SOURCE.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Model folder to write. Default: data/06_models/imported/NAME."
)
@click.option("--revision", help="Commit, tag or branch of the repository. Default: its newest commit.")
@click.option(
    "--vocabulary",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="vocab.txt or tokenizer.json, if SOURCE has none.",
)
@environment
@click.pass_obj
def import_command(
    metadata: Any,
    source: str,
    name: str | None,
    out: Path | None,
    revision: str | None,
    vocabulary: Path | None,
    env: str | None,
) -> None:
    """Make a model folder of published weights of CLIPS or OpenVision, and register it.

    SOURCE: a folder in open_clip's form (open_clip_config.json, weights, tokenizer), or a repository of the hub, such as
    UCSC-VLAA/ViT-L-14-CLIPS-224-Recap-DataComp-1B.

    The version gets no alias. `clips-pipeline import` writes the folder outside a project, and registers nothing.
    """
    with context(metadata, env) if metadata is not None else refusals(None):
        from clips_pipeline.interop.import_model import default_name, import_model
        from clips_pipeline.registry.config import RegistryConfig

        name = name or default_name(source)
        RegistryConfig(name=name)  # refuses a name that is none, before anything is fetched
        folder = out or Path("data/06_models/imported") / name
        origin = import_model(source, folder, revision=revision, vocabulary=vocabulary)
        click.echo(f"{folder}: written, from {origin.weights} (SHA-256 {origin.weights_sha256[:16]}…)")
        if metadata is None:
            click.echo(f"not registered, because this is no project; clips_pipeline.load('{folder}') loads it")
            return
        from clips_pipeline.registry.lineage.record import Lineage, git_state, uncommitted_patch
        from clips_pipeline.registry.versions.register_imported import register_imported

        git = git_state(metadata.project_path)
        patch = uncommitted_patch(metadata.project_path) if git.dirty else b""
        version = register_imported(folder, name, origin, Lineage(git, env), patch)
        click.echo(
            f"models:/{name}/{version}: registered; `kedro lineage show {version} --name {name}` says where it came from"
        )
        click.echo(f"next: kedro run --pipelines evaluate --params evaluate.model=models:/{name}/{version}")
