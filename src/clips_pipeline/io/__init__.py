"""Output: atomic writes, errors of a full or failing disk, text for terminals."""

__all__ = ["atomic", "disk_errors", "terminal"]
