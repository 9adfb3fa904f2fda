"""The `suite` pipeline."""
