"""`kedro dvc sync` and `kedro dvc check`. A project adds the group in its `cli.py`: `cli.add_command(dvc)`."""

from pathlib import Path

import click


@click.group()
def dvc() -> None:
    """DVC stages from the pipelines and the catalog."""


_environment = click.option(
    "--env", "-e", help="The environment; by default the base. Its stages stand in its own folder."
)


@dvc.command()
@_environment
@click.pass_obj
def sync(metadata: object, env: str | None) -> None:
    """Write dvc.yaml as the graph says; what was written by hand stays."""
    root = Path(getattr(metadata, "project_path", Path.cwd()))
    for file, _, new in _compare(root, [env]):
        file.write_text(new, encoding="utf-8")
        click.echo(f"{file.relative_to(root)}: written")


@dvc.command()
@_environment
@click.pass_obj
def check(metadata: object, env: str | None) -> None:
    """End with 1, and show the difference, where a dvc.yaml is not what the graph says."""
    root = Path(getattr(metadata, "project_path", Path.cwd()))
    from kedro_dvc_sync.project import Project

    environments = [env]
    if env is None:
        environments += [file.parent.name for file in sorted(Project(root).conf.glob("*/dvc.yaml"))]
    stale = _compare(root, environments)
    for _, shown, _ in stale:
        click.echo(shown, nl=False)
    if stale:
        commands = " and ".join(f"`kedro dvc sync{f' --env {e}' if e else ''}`" for e in environments)
        raise click.ClickException(f"not what the graph says: {commands} would change the lines above")
    click.echo("every dvc.yaml is what the graph says")


def _compare(root: Path, environments: list[str | None]) -> list[tuple[Path, str, str]]:
    """File, difference and wanted text of all that is stale."""
    from kedro_dvc_sync.project import Project
    from kedro_dvc_sync.stage_file import difference, merge_stages
    from kedro_dvc_sync.stages import build_stages

    stale = []
    for environment in environments:
        project = Project(root, environment)
        file = project.stage_file
        name = project.relative(file)
        old = file.read_text(encoding="utf-8") if file.is_file() else None
        new = merge_stages(old, build_stages(project), project.environment, name)
        shown = difference(old, new, name)
        if shown:
            stale.append((file, shown, new))
    return stale
