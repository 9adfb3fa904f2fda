"""`serve`: a model over HTTP."""

import os
from pathlib import Path
from typing import Any

import click

from clips_pipeline.commands.project import environment, model_folder
from clips_pipeline.commands.refusals import RefusedError


@click.command()
@click.argument("model")
@click.option("--index", type=click.Path(path_type=Path), help="Table of embeddings of the same model, for /search.")
@click.option("--pictures", is_flag=True, help="Show small pictures of the rows, from the files that the table names.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--device", default="cpu", show_default=True, help="A torch device, or auto.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the bearer token that requests need. Default: the variable CLIPS_SERVE_TOKEN, else no token.",
)
@click.option("--open", "open_to_all", is_flag=True, help="Allow other machines without a token.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A limit or timeout of docs/reference/server.md, such as max_items=64.",
)
@environment
@click.pass_obj
def serve(
    metadata: Any,
    model: str,
    index: Path | None,
    pictures: bool,
    host: str,
    port: int,
    device: str,
    token_file: Path | None,
    open_to_all: bool,
    settings: tuple[str, ...],
    env: str | None,
) -> None:
    """Serve MODEL over HTTP: embeddings, similarities, captions, search, and a page to try it.

    MODEL: a model folder (data/06_models/clips), models:/NAME/VERSION, models:/NAME@ALIAS or runs:/ID/PATH.
    `clips-pipeline serve` does the same outside a project.
    """
    with model_folder(metadata, model, env) as fetch:
        # Before torch is loaded: threads that wait for work then leave the cores to those that decode images.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

        from clips_pipeline.config import from_mapping
        from clips_pipeline.io.redact import remember
        from clips_pipeline.io.terminal import protect_output
        from clips_pipeline.serving.app import make_app
        from clips_pipeline.serving.config import ServeConfig, make_access, read_token
        from clips_pipeline.serving.inference import Inference
        from clips_pipeline.serving.server import bind, run

        if pictures and index is None:
            raise RefusedError("serve: --pictures shows those of an index; give --index, too")
        config = from_mapping(ServeConfig, _parse(settings), "--set")
        token = read_token(token_file)
        if token is not None:
            remember(token)
        access = make_access(host, token, open_to_all=open_to_all)
        # Before the model is loaded, which takes seconds.
        with bind(host, port) as listening:
            inference = Inference(fetch(), index, config, device, pictures=pictures)
            address, bound = listening.getsockname()[:2]
            shown = f"[{address}]" if ":" in address else address
            protect_output()
            run(
                make_app(inference, config, access),
                listening,
                config,
                lambda: click.echo(f"serving {model} on http://{shown}:{bound} (Ctrl-C ends it)"),
            )


def _parse(settings: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    from clips_pipeline.config import ConfigError

    found: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write NAME=VALUE")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {text}: the value cannot be read; write NAME=VALUE") from None
    return found
