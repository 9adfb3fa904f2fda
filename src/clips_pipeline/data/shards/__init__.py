"""Tar shards: format, index, sample offsets, writing, reading, and a cache of remote shards."""

__all__ = [
    "caption_questions",
    "caption_values",
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
    "unexpected",
    "writer",
]
