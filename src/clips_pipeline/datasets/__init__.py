"""Catalog types of this project."""

__all__ = ["folder", "remote", "report"]
