"""Project commands beside Kedro's: `kedro dvc`, `kedro lineage`, `kedro compare`, `kedro champion` and `kedro export`.

`kedro run` is Kedro's, with a one-line error in place of a traceback for unreadable configuration, and with lists in
`--params`. Commands import what they need when they run.
"""

import copy
import difflib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml
from kedro.framework.cli.project import run as kedro_run
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clips_pipeline.config import ConfigError
from kedro_dvc_sync.cli import dvc


@click.group()
def cli() -> None:
    """Commands of clips-pipeline."""


class _RefusedError(click.ClickException):
    """A one-line message, with the exit code of all configuration errors."""

    exit_code = 2


@contextmanager
def _refusals(env: str | None, conf_source: str | None = None) -> Iterator[None]:
    """Turn errors in the configuration into one-line messages."""
    _check_environment(env or os.environ.get("KEDRO_ENV"), conf_source)
    try:
        yield
    except (ConfigError, yaml.YAMLError) as error:
        raise _RefusedError(" ".join(str(error).split())) from None
    except OmegaConfBaseException as error:
        raise _RefusedError(f"configuration: {str(error).splitlines()[0]}") from None


def _check_environment(env: str | None, conf_source: str | None) -> None:
    from kedro.framework.project import settings
    from kedro.utils import find_kedro_project

    folder = Path(conf_source or (find_kedro_project(Path.cwd()) or Path.cwd()) / settings.CONF_SOURCE)
    if env is None or not folder.is_dir() or (folder / env).is_dir():
        return
    known = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in ("base", "local"))
    search = "; `kedro run --pipelines search` creates it" if env == "best" else ""
    raise _RefusedError(
        f"--env {env}: no folder {folder / env}{_nearest(env, known)}; known: {', '.join(known)}{search}"
    )


def _check_pipelines(names: Sequence[str]) -> None:
    from kedro.framework.project import pipelines

    for name in names:
        if name not in pipelines:
            known = sorted(set(pipelines) - {"__default__"})
            raise _RefusedError(f"--pipelines {name}: unknown{_nearest(name, known)}; known: {', '.join(known)}")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _run_with_refusals(**options: Any) -> Any:
    with _refusals(options["env"], options["conf_source"]):
        _check_pipelines([*filter(None, [options["pipeline"]]), *options["pipelines"]])
        return kedro_run.callback(**options)  # type: ignore[misc]  # Kedro's command has a callback


def split_parameters(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Return the nested parameters of `a=1,b.c=[2,3]`. Kedro splits at every comma, even inside lists."""
    if isinstance(value, dict):
        return value
    items = []
    for item in filter(str.strip, _split_outside_brackets(value)):
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            ctx.fail(f"--{param.name}: {item.strip()!r} is not key=value; write a list as 'key=[2,3]', in quotes")
        items.append(f"{key.strip()}={text.strip()}")
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist(items))
    except (yaml.YAMLError, OmegaConfBaseException):
        ctx.fail(f"--{param.name}: {value!r} cannot be parsed; write a list as 'key=[2,3]', in quotes")


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _run_command() -> click.Command:
    command = copy.copy(kedro_run)
    command.callback = _run_with_refusals
    command.params = [copy.copy(option) for option in kedro_run.params]
    for option in command.params:
        if option.name == "params":
            option.callback = split_parameters
    return command


# `python -m clips_pipeline` looks up the command by this name.
run = _run_command()
cli.add_command(run)


@cli.group()
def lineage() -> None:
    """Code, data and parameters of registered models."""


_name = click.option("--name", help="Registered model. Default: register.name of the environment.")
_environment = click.option("--env", "-e", help="Environment whose mlflow.yml and register.name are used.")


def _of_model(command: Any) -> Any:
    """Add the options that name a registered model; the command's first argument is the project's metadata."""
    return _name(_environment(click.pass_obj(command)))


@lineage.command()
@click.argument("version")
@click.option("--json", "as_json", is_flag=True, help="Print the full lineage as JSON.")
@_of_model
def show(metadata: Any, version: str, name: str | None, env: str | None, as_json: bool) -> None:
    """Print the code, data and parameters of VERSION (a number, or an alias such as champion)."""
    with _record(metadata, version, name, env) as record:
        if as_json:
            facts = {"name": record.name, "version": record.version, **record.lineage.to_mapping()}
            click.echo(json.dumps(facts, indent=1))
            return
        from clips_pipeline.io.terminal import safe_text
        from clips_pipeline.registry.lineage.record import describe

        click.echo(f"{record.name} {record.version}")
        click.echo(safe_text(describe(record.lineage)))


@lineage.command()
@click.argument("version")
@click.argument("folder", type=click.Path(path_type=Path))
@_of_model
def restore(metadata: Any, version: str, folder: Path, name: str | None, env: str | None) -> None:
    """Create FOLDER as a checkout with the code, data and parameters of VERSION."""
    with _record(metadata, version, name, env) as record:
        from clips_pipeline.registry.lineage.restore import restore as restore_record

        project = restore_record(record, metadata.project_path, folder)
        click.echo(f"{project}: restored {record.name} {record.version}; `dvc status` reports no change")


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--set",
    "set_name",
    help="Evaluation set to compare on, also sugarcrepe or winoground. Default: the set that both were evaluated on.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Confidence level of the intervals.",
)
@_environment
@click.pass_obj
def compare(metadata: Any, a: str, b: str, set_name: str | None, confidence: float, env: str | None) -> None:
    """Compare model B with model A, paired by item: by image, or by entry.

    A and B: models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID, or a CSV file of per-item results.
    """
    with _context(metadata, env) as context:
        from rich.console import Console

        from clips_pipeline.registry.versions.compare_models import compare_references
        from clips_pipeline.reports.model.comparison import terminal_table, verdicts, write_comparison

        differences, items = compare_references(a, b, set_name, confidence=confidence)
        console = Console()
        console.print(terminal_table(differences, items, confidence, console.width))
        for sentence in verdicts(differences, confidence):
            click.echo(sentence)
        report = context.catalog.load("paths")["comparison_report"]
        click.echo(f"open the report: {write_comparison(differences, (a, b), items, confidence, report)}")


@cli.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", "form", required=True, help="Form: open-clip, onnx or transformers.")
@_environment
@click.pass_obj
def export(metadata: Any, model: str, out: Path, form: str, env: str | None) -> None:
    """Write MODEL to the folder OUT in the form of another library, which must compute the same before OUT is kept.

    MODEL: a model folder (data/06_models/clips), models:/NAME/VERSION, models:/NAME@ALIAS or runs:/ID/PATH.
    `clips-pipeline export` does the same outside a project.
    """
    is_uri = model.startswith(("models:/", "runs:/"))
    # Only a URI needs the project's tracking server.
    with _context(metadata, env) if is_uri and metadata is not None else _refusals(None):
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


@cli.group()
def champion() -> None:
    """Move the alias of the production model by hand."""


_reason = click.option("--reason", required=True, help="Reason, stored with the version.")


@champion.command()
@_reason
@_of_model
def rollback(metadata: Any, name: str | None, env: str | None, reason: str) -> None:
    """Move the alias back to the version that had it before."""
    with _registry(metadata, name, env) as names:
        from clips_pipeline.registry.versions.champion import roll_back

        demoted, restored = roll_back(names, reason)
        click.echo(f"models:/{names.name}@{names.alias} is version {restored} again, instead of {demoted}")


@champion.command("set")
@click.argument("version", type=int)
@_reason
@_of_model
def set_champion(metadata: Any, version: int, name: str | None, env: str | None, reason: str) -> None:
    """Move the alias to VERSION, whatever the gate decides."""
    with _registry(metadata, name, env) as names:
        from clips_pipeline.registry.versions.champion import set_champion as move_alias

        previous = move_alias(names, version, reason)
        click.echo(f"models:/{names.name}@{names.alias} is version {version}; previously: {previous or 'none'}")


cli.add_command(dvc)


@contextmanager
def _context(metadata: Any, env: str | None) -> Iterator[Any]:
    """Yield Kedro's context of an environment, with its tracking server set; our errors become one-line messages."""
    from kedro.framework.session import KedroSession

    with _refusals(env), KedroSession.create(metadata.project_path, env=env) as session:
        # kedro-mlflow sets the tracking server when the context is loaded.
        yield session.load_context()  # type: ignore[attr-defined]


@contextmanager
def _record(metadata: Any, version: str, name: str | None, env: str | None) -> Iterator[Any]:
    """Yield the version's record, from the environment's tracking server."""
    with _context(metadata, env) as context:
        from clips_pipeline.registry.lineage.tags import load_record

        yield load_record(name or context.params["register"]["name"], version)


@contextmanager
def _registry(metadata: Any, name: str | None, env: str | None) -> Iterator[Any]:
    """Yield the environment's names of the registered model and its aliases."""
    with _context(metadata, env) as context:
        from clips_pipeline.config import from_mapping
        from clips_pipeline.registry.config import RegistryConfig

        mapping = {**context.params["register"], **({"name": name} if name else {})}
        yield from_mapping(RegistryConfig, mapping, "register")
