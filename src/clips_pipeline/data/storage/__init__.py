"""Local and remote files: addresses, file systems, retries."""

__all__ = ["files", "retry", "urls"]
