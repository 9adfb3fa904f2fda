"""The `search` pipeline."""
