"""Sources of samples, one file for each kind."""

__all__ = [
    "caption_table",
    "captions_file",
    "clip_benchmark",
    "clip_benchmark_export",
    "folder",
    "img2dataset",
    "in_place",
    "join_tasks",
    "parquet",
    "parquet_columns",
    "parquet_task",
    "recaption",
    "source",
    "table_build",
    "table_rows",
]
