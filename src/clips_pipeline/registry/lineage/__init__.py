"""Lineage of a version: its code, data and parameters, how they are stored in MLflow, and how to restore them."""

__all__ = ["record", "restore", "tags"]
