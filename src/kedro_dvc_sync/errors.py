"""The one error of this package."""


class StageError(ValueError):
    """The graph, the catalog or the settings cannot be written as DVC stages. The message says what to change."""
