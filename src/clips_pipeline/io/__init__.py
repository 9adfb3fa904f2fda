"""Files and output: atomic writes, locks, digests, a full or failing disk, text for terminals, the redactor; free memory."""

__all__ = [
    "atomic",
    "digests",
    "disk_errors",
    "file_lock",
    "free_memory",
    "json_text",
    "redact",
    "temporary",
    "terminal",
]
