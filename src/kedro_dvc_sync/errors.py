"""The one error of this package."""

import click


class StageError(click.ClickException):
    """The graph, the catalog or the settings cannot be written as DVC stages. The message says what to change."""
