"""Kedro pipelines, one package each, nodes thin."""
