"""`kedro champion`: the alias of the production model, moved by hand."""

from typing import Any

import click

from clips_pipeline.commands.project import of_model, registry


@click.group()
def champion() -> None:
    """Move the alias of the production model by hand."""


_reason = click.option("--reason", required=True, help="Reason, stored with the version.")


@champion.command()
@_reason
@of_model
def rollback(metadata: Any, name: str | None, env: str | None, reason: str) -> None:
    """Move the alias back to the version that had it before."""
    with registry(metadata, name, env) as names:
        from clips_pipeline.registry.versions.champion import roll_back

        demoted, restored = roll_back(names, reason)
        click.echo(f"models:/{names.name}@{names.alias} is version {restored} again, instead of {demoted}")


@champion.command("set")
@click.argument("version", type=int)
@_reason
@of_model
def set_champion(metadata: Any, version: int, name: str | None, env: str | None, reason: str) -> None:
    """Move the alias to VERSION, whatever the gate decides."""
    with registry(metadata, name, env) as names:
        from clips_pipeline.registry.versions.champion import set_champion as move_alias

        previous = move_alias(names, version, reason)
        click.echo(f"models:/{names.name}@{names.alias} is version {version}; previously: {previous or 'none'}")
