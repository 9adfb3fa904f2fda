"""The project's commands, one module for each; `cli.py` puts them together."""

__all__ = ["champion", "compare", "export", "lineage", "project", "refusals", "run"]
