"""The `study` pipeline: methods and caption lengths compared."""
