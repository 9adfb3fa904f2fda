"""The `prepare` pipeline."""
