"""The `recaption` pipeline."""
