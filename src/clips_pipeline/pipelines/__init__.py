"""Kedro pipelines, and what surrounds a `kedro run`: parameter checks, the MLflow run, lineage and the summary."""
