"""Files: atomic writes, and what to say when the disk refuses."""

__all__ = ["atomic", "disk_errors"]
