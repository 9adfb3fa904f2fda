"""The `benchmark` pipeline."""
