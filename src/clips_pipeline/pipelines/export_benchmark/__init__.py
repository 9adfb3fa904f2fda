"""The `export_benchmark` pipeline."""
