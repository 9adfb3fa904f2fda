"""Catalog types of this project."""
