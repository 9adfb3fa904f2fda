"""Output: atomic writes, errors of a full or failing disk, text for terminals, the redactor."""

__all__ = ["atomic", "disk_errors", "redact", "terminal"]
