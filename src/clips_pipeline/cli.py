"""The project's own commands, beside Kedro's: `kedro dvc`, `kedro lineage`, `kedro compare` and `kedro champion`.

`kedro run` is Kedro's, with one line in place of a traceback where configuration cannot be read, and with lists in `--params`.
What the commands need is imported when they run.
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
    """One line, and the exit code of every configuration error."""

    exit_code = 2


@contextmanager
def _refusals(env: str | None, conf_source: str | None = None) -> Iterator[None]:
    """Configuration that cannot be read becomes one line."""
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
    search = "; `kedro run --pipelines search` makes it" if env == "best" else ""
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
        return kedro_run.callback(**options)  # type: ignore[misc]  # Kedro's own command has one


def split_parameters(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """The nested parameters of `a=1,b.c=[2,3]`. Kedro's own splits at every comma, also at those of a list."""
    if isinstance(value, dict):
        return value
    items = []
    for item in filter(str.strip, _split_outside_brackets(value)):
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            ctx.fail(f"--{param.name}: {item.strip()!r} is not key=value; give a list as 'key=[2,3]', in quotes")
        items.append(f"{key.strip()}={text.strip()}")
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist(items))
    except (yaml.YAMLError, OmegaConfBaseException):
        ctx.fail(f"--{param.name}: {value!r} cannot be read; give a list as 'key=[2,3]', in quotes")


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


# `python -m clips_pipeline` looks for it by this name.
run = _run_command()
cli.add_command(run)


@cli.group()
def lineage() -> None:
    """Code, data and parameters of registered models."""


_name = click.option("--name", help="The registered model; by default register.name of the environment.")
_environment = click.option("--env", "-e", help="The environment whose mlflow.yml and register.name count.")


def _of_model(command: Any) -> Any:
    """The options that name a registered model, behind the project's metadata."""
    return _name(_environment(click.pass_obj(command)))


@lineage.command()
@click.argument("version")
@click.option("--json", "as_json", is_flag=True, help="All of it, for programs.")
@_of_model
def show(metadata: Any, version: str, name: str | None, env: str | None, as_json: bool) -> None:
    """Print what VERSION (a number or an alias, such as champion) was made of."""
    with _record(metadata, version, name, env) as record:
        if as_json:
            facts = {"name": record.name, "version": record.version, **record.lineage.to_mapping()}
            click.echo(json.dumps(facts, indent=1))
            return
        from clips_pipeline.registry.lineage.record import describe

        click.echo(f"{record.name} {record.version}")
        click.echo(describe(record.lineage))


@lineage.command()
@click.argument("version")
@click.argument("folder", type=click.Path(path_type=Path))
@_of_model
def restore(metadata: Any, version: str, folder: Path, name: str | None, env: str | None) -> None:
    """Make FOLDER a checkout with exactly the code, data and parameters of VERSION."""
    with _record(metadata, version, name, env) as record:
        from clips_pipeline.registry.lineage.restore import restore as restore_record

        project = restore_record(record, metadata.project_path, folder)
        click.echo(f"{project}: {record.name} {record.version} as it was made; `dvc status` finds no change")


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--set",
    "set_name",
    help="The set to compare on, also sugarcrepe or winoground; by default the one that both were evaluated on.",
)
@click.option(
    "--confidence", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95, show_default=True
)
@_environment
@click.pass_obj
def compare(metadata: Any, a: str, b: str, set_name: str | None, confidence: float, env: str | None) -> None:
    """Compare model B with model A, item by item: image by image, or entry by entry.

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


@cli.group()
def champion() -> None:
    """Which version the alias of production means, and moving it by hand."""


_reason = click.option("--reason", required=True, help="Why; kept with the version.")


@champion.command()
@_reason
@_of_model
def rollback(metadata: Any, name: str | None, env: str | None, reason: str) -> None:
    """Give the alias back to the version that had it before."""
    with _registry(metadata, name, env) as names:
        from clips_pipeline.registry.versions.champion import roll_back

        lost, won = roll_back(names, reason)
        click.echo(f"models:/{names.name}@{names.alias} is version {won} again, and no longer {lost}")


@champion.command("set")
@click.argument("version", type=int)
@_reason
@_of_model
def set_champion(metadata: Any, version: int, name: str | None, env: str | None, reason: str) -> None:
    """Give the alias to VERSION, whatever the gate says."""
    with _registry(metadata, name, env) as names:
        from clips_pipeline.registry.versions.champion import set_champion

        before = set_champion(names, version, reason)
        click.echo(f"models:/{names.name}@{names.alias} is version {version}; before: {before or 'none'}")


cli.add_command(dvc)


@contextmanager
def _context(metadata: Any, env: str | None) -> Iterator[Any]:
    """Kedro's context of an environment, with its tracking server set; our errors as one message."""
    from kedro.framework.session import KedroSession

    with _refusals(env), KedroSession.create(metadata.project_path, env=env) as session:
        # Loading the context lets kedro-mlflow set the tracking server.
        yield session.load_context()  # type: ignore[attr-defined]


@contextmanager
def _record(metadata: Any, version: str, name: str | None, env: str | None) -> Iterator[Any]:
    """The version's record, from the tracking server that the environment names."""
    with _context(metadata, env) as context:
        from clips_pipeline.registry.lineage.tags import load_record

        yield load_record(name or context.params["register"]["name"], version)


@contextmanager
def _registry(metadata: Any, name: str | None, env: str | None) -> Iterator[Any]:
    """The names of the model and the aliases that the environment uses."""
    with _context(metadata, env) as context:
        from clips_pipeline.config import from_mapping
        from clips_pipeline.registry.config import RegistryConfig

        mapping = {**context.params["register"], **({"name": name} if name else {})}
        yield from_mapping(RegistryConfig, mapping, "register")
