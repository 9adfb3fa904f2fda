"""The `register` pipeline."""
