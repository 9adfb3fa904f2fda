"""Files on this machine and elsewhere: URLs, retries, and a bounded cache of remote shards."""

__all__ = ["files", "retry", "urls"]
