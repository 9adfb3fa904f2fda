"""A look at a few samples of a source before anything is prepared; little is read, and nothing is written."""

__all__ = ["brief_join", "brief_parquet", "first_samples", "samples"]
