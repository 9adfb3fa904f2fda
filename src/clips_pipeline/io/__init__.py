"""File output: atomic writes, and errors of a full or failing disk."""

__all__ = ["atomic", "disk_errors"]
