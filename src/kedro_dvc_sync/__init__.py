"""`dvc.yaml` from the graph of a Kedro project: `kedro dvc sync`, `kedro dvc check`, and the commit after a `kedro run`.

It knows Kedro and DVC and nothing of the project it serves, so any Kedro project can use it: docs/versioning.md.
"""
