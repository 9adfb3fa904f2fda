"""Tar shards: their index, the offsets of their samples, and how they are written and read."""

__all__ = [
    "folder_lock",
    "index",
    "reader",
    "records",
    "sample_offsets",
    "sample_reader",
    "shard_cache",
    "splits",
    "tar_file",
    "tar_headers",
    "writer",
]
