"""From a source to shards and their index: filters, deduplication, validation, statistics, parallel jobs."""

__all__ = [
    "assemble",
    "caption_check",
    "caption_statistics",
    "dedup",
    "executor",
    "filters",
    "histogram",
    "job",
    "job_files",
    "run",
    "sample_checker",
    "statistics",
    "validate",
    "watchdog",
    "worker_pool",
]
