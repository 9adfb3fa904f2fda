"""DVC stages from the pipelines of a Kedro project.

It provides `kedro dvc sync`, `kedro dvc check`, and `dvc commit` after a `kedro run`. It depends only on Kedro and DVC,
so any Kedro project can use it (docs/how-to/versions.md).
"""
