"""Commands `kedro dvc sync` and `kedro dvc check`. A project adds the group in its `cli.py`: `cli.add_command(dvc)`."""

from pathlib import Path

import click


@click.group()
def dvc() -> None:
    """Write or check the DVC stages of the pipelines and the catalog."""


_environment = click.option(
    "--env", "-e", help="Environment whose dvc.yaml, in its own folder, is used. Default: base."
)


@dvc.command()
@_environment
@click.pass_obj
def sync(metadata: object, env: str | None) -> None:
    """Update the stages in dvc.yaml; manual additions are kept."""
    root = Path(getattr(metadata, "project_path", Path.cwd()))
    for file, _, new in _compare(root, [env]):
        file.write_text(new, encoding="utf-8")
        click.echo(f"{file.relative_to(root)}: written")


@dvc.command()
@_environment
@click.pass_obj
def check(metadata: object, env: str | None) -> None:
    """Exit with 1, and print the difference, if a dvc.yaml is out of date."""
    root = Path(getattr(metadata, "project_path", Path.cwd()))
    from kedro_dvc_sync.project import Project

    environments = [env]
    if env is None:
        environments += [file.parent.name for file in sorted(Project(root).conf.glob("*/dvc.yaml"))]
    stale = _compare(root, environments)
    for _, diff, _ in stale:
        click.echo(diff, nl=False)
    if stale:
        commands = " and ".join(f"`kedro dvc sync{f' --env {e}' if e else ''}`" for e in environments)
        raise click.ClickException(f"dvc.yaml is out of date; run {commands} to update the lines above")
    click.echo("every dvc.yaml is up to date")


def _compare(root: Path, environments: list[str | None]) -> list[tuple[Path, str, str]]:
    """Return file, difference and new text of every dvc.yaml that is out of date."""
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
        diff = difference(old, new, name)
        if diff:
            stale.append((file, diff, new))
    return stale
