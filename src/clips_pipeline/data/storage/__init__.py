"""Local and remote files: addresses, file systems, retries, refusal of credentials in addresses."""

__all__ = ["credentials", "files", "hub", "retry", "urls"]
