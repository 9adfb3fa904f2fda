"""Files and output: atomic writes, locks, digests, a full or failing disk, text for terminals, the redactor, JSON of others."""

__all__ = ["atomic", "digests", "disk_errors", "file_lock", "json_text", "redact", "temporary", "terminal"]
