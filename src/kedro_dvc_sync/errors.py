"""The error class of this package."""

import click


class StageError(click.ClickException):
    """The pipelines, the catalog or the settings cannot be written as DVC stages. The message names the remedy."""
