"""The project's commands, one module for each; `cli.py` puts them together."""

__all__ = [
    "champion",
    "compare",
    "data",
    "dedup",
    "export",
    "import_model",
    "lineage",
    "project",
    "push",
    "refusals",
    "run",
    "search",
    "serve",
    "standalone",
]
