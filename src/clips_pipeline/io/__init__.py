"""Output: atomic writes, locks, errors of a full or failing disk, text for terminals, the redactor."""

__all__ = ["atomic", "disk_errors", "file_lock", "redact", "temporary", "terminal"]
